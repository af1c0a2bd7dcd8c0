#include <fmt/format.h>
#include <unroll/graph/clock.h>
#include <unroll/graph/tape.h>
#include <unroll/train/epochs.h>
#include <unroll/train/interrupt.h>
#include <unroll/train/progress.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace unroll {
namespace {

// A copy: the optimizer writes into what state_dict() refers to.
StateDict copy_of(const Module& model) {
  StateDict state = model.state_dict();
  for (auto& [name, value] : state) value = value.clone();
  return state;
}

}  // namespace

std::vector<std::vector<std::int64_t>> epoch_batches(
    std::int64_t examples, std::int64_t batch,
    const std::function<std::int64_t(std::int64_t)>& length, Generator& generator) {
  if (examples < 1 || batch < 1)
    fail("epochs", fmt::format("batches of {} from {} examples", batch, examples));
  std::vector<std::int64_t> order = generator.permutation(examples);
  constexpr std::int64_t pool_batches = 50;
  if (length) {
    const std::int64_t pool = std::min(examples, pool_batches * std::min(batch, examples));
    for (std::int64_t begin = 0; begin < examples; begin += pool)
      std::stable_sort(order.begin() + begin, order.begin() + std::min(begin + pool, examples),
                       [&](std::int64_t a, std::int64_t b) { return length(a) < length(b); });
  }
  std::vector<std::vector<std::int64_t>> batches;
  for (std::int64_t begin = 0; begin < examples;) {
    const std::int64_t end = begin + std::min(batch, examples - begin);
    batches.emplace_back(order.begin() + begin, order.begin() + end);
    begin = end;
  }
  if (!length) return batches;
  std::vector<std::vector<std::int64_t>> shuffled;
  for (const std::int64_t i : generator.permutation(std::ssize(batches)))
    shuffled.push_back(std::move(batches[static_cast<std::size_t>(i)]));
  return shuffled;
}

EpochResult train_epochs(Module& model, Optimizer& optimizer, const EpochTask& task,
                         Generator& generator, const EpochOptions& options) {
  if (!task.loss || options.epochs < 1)
    fail("epochs", "the task needs a `loss`, and there must be an epoch");
  const std::int64_t steps_an_epoch =
      task.examples / options.batch + (task.examples % options.batch != 0);
  const std::int64_t steps = steps_an_epoch * options.epochs;
  const Schedule rate =
      schedule::cosine({.rate = options.learning_rate,
                        .steps = steps,
                        .warmup_steps = std::llround(options.warmup * static_cast<double>(steps))});
  const InterruptGuard interrupt;
  std::optional<Progress> bar;
  if (!options.label.empty()) bar.emplace(options.label);
  EpochResult result;
  StateDict best;
  std::int64_t step = 0;
  for (int epoch = 1; epoch <= options.epochs && !result.interrupted; ++epoch) {
    model.train();
    EpochPoint point{.epoch = epoch};
    const auto start = Clock::now();
    for (const auto& batch : epoch_batches(task.examples, options.batch, task.length, generator)) {
      if (InterruptGuard::requested()) {
        result.interrupted = true;
        break;
      }
      const double now =
          options.epoch_factor ? options.learning_rate * options.epoch_factor(epoch) : rate(step);
      optimizer.set_learning_rate(now);
      ++step;
      optimizer.zero_grad();
      {
        Tape tape;
        const Tensor loss = task.loss(batch);
        const double value = loss.item();
        if (!std::isfinite(value))
          fail("epochs", fmt::format("the loss in epoch {} is {}", epoch, value),
               "Lower the learning rate or clip gradients");
        tape.backward(loss);
        point.train_loss +=
            value * static_cast<double>(batch.size()) / static_cast<double>(task.examples);
      }
      optimizer.step({.clip_norm = options.clip_norm});
      if (bar)
        bar->update(static_cast<double>(step) / static_cast<double>(steps),
                    fmt::format("epoch {}/{}", epoch, options.epochs));
    }
    result.seconds += seconds_since(start);
    if (result.interrupted) break;
    point.seconds = result.seconds;
    point.validation = point.train_loss;
    if (task.evaluate) {
      const NoGrad constant;
      model.eval();
      point.validation = task.evaluate();
    }
    result.curve.push_back(point);
    if (options.on_epoch) options.on_epoch(point);
    if (!task.evaluate || result.best_epoch == 0 || point.validation < result.best) {
      result.best = point.validation;
      result.best_epoch = epoch;
      if (task.evaluate) best = copy_of(model);
    } else if (options.patience > 0 && epoch - result.best_epoch >= options.patience) {
      break;
    }
  }
  if (!best.empty()) model.load_state_dict(best);
  optimizer.zero_grad();
  model.eval();
  return result;
}

}  // namespace unroll
