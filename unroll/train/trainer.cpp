#include <fmt/format.h>
#include <unroll/graph/clock.h>
#include <unroll/graph/precision.h>
#include <unroll/graph/tape.h>
#include <unroll/optim/clip.h>
#include <unroll/train/checkpoint.h>
#include <unroll/train/interrupt.h>
#include <unroll/train/progress.h>
#include <unroll/train/trainer.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

namespace unroll {
namespace {

// One line of JSON an evaluation, flushed, so that a run can be watched and survives a crash.
class Log {
 public:
  Log(const std::string& path, bool append) {
    if (path.empty()) return;
    file_.open(path, append ? std::ios::app : std::ios::trunc);
    if (!file_) throw DataError(error_message("train", "cannot write '" + path + "'", nullptr, ""));
  }
  void write(const TrainPoint& point, double rate, DType precision) {
    if (!file_.is_open()) return;
    file_ << nlohmann::json{{"step", point.step},
                            {"tokens", point.tokens},
                            {"seconds", point.seconds},
                            {"train_loss", point.train_loss},
                            {"validation_loss", point.validation_loss},
                            {"learning_rate", rate},
                            {"precision", to_string(precision)}}
                 .dump()
          << std::endl;
  }

 private:
  std::ofstream file_;
};

// What a run asks of its task, whichever it is.
struct Work {
  std::function<void(std::int64_t step)> seek = {};
  // Before the tape of a step begins: what it reads.
  std::function<void(TrainProgress&)> draw = {};
  // The loss on the current tape; adds to the tokens, and changes what is carried.
  std::function<Tensor(std::int64_t step, std::int64_t& tokens, Carried&)> loss = {};
  std::function<double()> evaluate = {};
};

class Run {
 public:
  Run(Module& model, Optimizer& optimizer, Work work, Generator& generator,
      const TrainOptions& options)
      : model_(model),
        optimizer_(optimizer),
        work_(std::move(work)),
        generator_(generator),
        options_(options),
        parameters_(model.parameters()) {
    progress_.identity = options.identity;
  }

  TrainResult operator()() {
    const bool resumed =
        options_.resume && !options_.checkpoint.empty() &&
        load_checkpoint(options_.checkpoint, model_, optimizer_, generator_, progress_);
    if (resumed && work_.seek) work_.seek(progress_.step);
    Log log(options_.log, resumed);
    const InterruptGuard interrupt;
    std::optional<Progress> bar;
    if (!options_.label.empty()) bar.emplace(options_.label);
    model_.train();
    while (progress_.step < options_.steps) {
      if (options_.seconds > 0 && progress_.seconds >= options_.seconds) break;
      if (InterruptGuard::requested()) {
        result_.interrupted = true;
        break;
      }
      const auto start = Clock::now();
      step();
      progress_.seconds += seconds_since(start);
      const bool due = options_.evaluate_every > 0 && progress_.step % options_.evaluate_every == 0;
      if (due) {
        evaluate(log);
        if (options_.patience > 0 && progress_.since_best >= options_.patience) break;
      }
      if (bar) bar->update(share(), fmt::format("loss {:.3f}", progress_.running));
    }
    const bool fresh = progress_.curve.empty() || progress_.curve.back().step != progress_.step;
    if (work_.evaluate && fresh && !result_.interrupted) evaluate(log);
    if (result_.interrupted) save();
    result_.curve = progress_.curve;
    result_.steps = progress_.step;
    result_.tokens = progress_.tokens;
    result_.seconds = progress_.seconds;
    result_.peak_bytes = progress_.peak_bytes;
    result_.best_loss = progress_.best;
    return result_;
  }

 private:
  double share() const {
    const double by_steps =
        static_cast<double>(progress_.step) / static_cast<double>(options_.steps);
    return options_.seconds > 0 ? std::max(by_steps, progress_.seconds / options_.seconds)
                                : by_steps;
  }

  void step() {
    reset_peak_memory();
    if (options_.schedule) optimizer_.set_learning_rate(options_.schedule(progress_.step));
    if (work_.draw) work_.draw(progress_);
    optimizer_.zero_grad();
    double value = 0;
    std::int64_t tokens = 0;
    Carried carried = progress_.carried;
    {
      Tape tape{{.precision = options_.precision}};
      const Tensor loss = work_.loss(progress_.step, tokens, carried);
      value = loss.item();
      if (!std::isfinite(value))
        fail("train", fmt::format("the loss of step {} is {}", progress_.step, value),
             "Lower the learning rate or clip gradients; Tape({.check_numbers = true}) names the "
             "first op that went wrong");
      tape.backward(loss);
    }
    if (options_.gradient_noise.eta > 0) {
      if (options_.clip_norm > 0) clip_grad_norm(parameters_, options_.clip_norm);
      add_noise();
      optimizer_.step();
    } else {
      optimizer_.step({.clip_norm = options_.clip_norm});
    }
    progress_.carried = std::move(carried);
    progress_.peak_bytes = std::max(progress_.peak_bytes, memory_stats().peak);
    progress_.running = progress_.step == 0 ? value : 0.95 * progress_.running + 0.05 * value;
    progress_.interval_sum += value;
    ++progress_.interval_steps;
    ++progress_.step;
    progress_.tokens += tokens;
  }

  // Noise of a step's own, from numbers that batches are not drawn from: the batches are those of
  // a run without noise, and a resumed run finds its place.
  void add_noise() {
    std::uint64_t count = 0;
    for (const Parameter& one : parameters_) count += static_cast<std::uint64_t>(one.numel());
    constexpr std::uint64_t numbers_a_normal = 4, other_stream = 0x6e6f697365;
    Generator noise(generator_.seed() ^ other_stream);
    noise.seek(static_cast<std::uint64_t>(progress_.step) * count * numbers_a_normal);
    add_gradient_noise(parameters_, options_.gradient_noise, progress_.step, noise);
  }

  void evaluate(Log& log) {
    TrainPoint point{
        .step = progress_.step,
        .tokens = progress_.tokens,
        .seconds = progress_.seconds,
        .train_loss = progress_.interval_steps > 0
                          ? progress_.interval_sum / static_cast<double>(progress_.interval_steps)
                          : std::numeric_limits<double>::quiet_NaN()};
    progress_.interval_sum = 0;
    progress_.interval_steps = 0;
    if (work_.evaluate) {
      const NoGrad constant;
      model_.eval();
      point.validation_loss = work_.evaluate();
      model_.train();
    } else {
      point.validation_loss = point.train_loss;
    }
    // NaN is worse than anything: also as the first, it must not stay the best.
    const bool better = progress_.curve.empty() || point.validation_loss < progress_.best ||
                        (std::isnan(progress_.best) && !std::isnan(point.validation_loss));
    if (better) progress_.best = point.validation_loss;
    progress_.since_best = better ? 0 : progress_.since_best + 1;
    progress_.curve.push_back(point);
    log.write(point, optimizer_.learning_rate(), options_.precision);
    save();
  }

  void save() {
    if (!options_.checkpoint.empty())
      save_checkpoint(options_.checkpoint, model_, optimizer_, generator_, progress_);
  }

  Module& model_;
  Optimizer& optimizer_;
  Work work_;
  Generator& generator_;
  const TrainOptions& options_;
  std::vector<Parameter> parameters_;
  TrainProgress progress_;
  TrainResult result_;
};

}  // namespace

TrainResult train(SequenceModel& model, Optimizer& optimizer, const TrainTask& task,
                  Generator& generator, const TrainOptions& options) {
  if (!task.next || !task.loss) fail("train", "the task needs `next` and `loss`");
  check_precision(options.precision);
  if (task.carry_state && !model.constant_state())
    fail("train", "the state to carry grows with every step that was read",
         "Train a model with attention on windows, without carrying its state");
  Batch batch;
  Work work{.seek = task.seek,
            .draw =
                [&](TrainProgress& progress) {
                  if (task.carry_state && task.at_start && task.at_start()) progress.carried = {};
                  batch = task.next(generator);
                },
            .loss =
                [&](std::int64_t, std::int64_t& tokens, Carried& carried) {
                  tokens += batch.x.size(0) * batch.x.size(1);
                  const Tensor output = task.carry_state
                                            ? run_stream(model, batch.x, task.k2, carried)
                                            : model(batch.x).output;
                  return task.loss(output, batch);
                }};
  if (task.evaluate) work.evaluate = [&] { return task.evaluate(model); };
  return Run(model, optimizer, std::move(work), generator, options)();
}

TrainResult train(Module& model, Optimizer& optimizer, const Objective& objective,
                  Generator& generator, const TrainOptions& options) {
  if (!objective.loss) fail("train", "the objective needs `loss`");
  check_precision(options.precision);
  Work work{.loss = [&](std::int64_t step, std::int64_t& tokens,
                        Carried&) { return objective.loss(step, generator, tokens); },
            .evaluate = objective.evaluate};
  return Run(model, optimizer, std::move(work), generator, options)();
}

double mean_loss(SequenceModel& model, const TrainTask& task, Generator generator, int count) {
  if (count < 1) fail("mean_loss", fmt::format("{} batches", count));
  const NoGrad constant;
  const bool training = model.training();
  model.eval();
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    const Batch batch = task.next(generator);
    sum += task.loss(model(batch.x).output, batch).item();
  }
  model.train(training);
  return sum / count;
}

}  // namespace unroll
