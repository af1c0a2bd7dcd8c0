#include <fmt/format.h>
#include <unroll/compare/probes.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/index.h>
#include <unroll/ops/loss.h>
#include <unroll/optim/adam.h>

namespace unroll {
namespace {

Tensor adding_loss(SequenceModel& model, const Tensor& x, const Tensor& y) {
  return mse_loss(select(model(x).output, 0, x.size(0) - 1), y);
}

}  // namespace

std::pair<Tensor, Tensor> adding_batch(std::int64_t length, std::int64_t batch,
                                       Generator& generator) {
  if (length < 2) fail("adding", fmt::format("a length of {} has no two places", length));
  Tensor x = Tensor::zeros({length, batch, 2}), y = Tensor::empty({batch, 1});
  float* values = x.mutable_ptr<float>();
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto at = [&](std::int64_t t) -> float* { return values + (t * batch + b) * 2; };
    for (std::int64_t t = 0; t < length; ++t) at(t)[0] = static_cast<float>(generator.uniform());
    const std::int64_t first = generator.below(length / 2);
    const std::int64_t second = length / 2 + generator.below(length - length / 2);
    at(first)[1] = at(second)[1] = 1;
    y.mutable_ptr<float>()[b] = at(first)[0] + at(second)[0];
  }
  return {x, y};
}

AddingResult train_adding(ModelConfig config, std::int64_t length, std::int64_t steps,
                          std::int64_t batch, double learning_rate, Generator& generator,
                          const OnProgress& progress) {
  config.vocabulary = 0;
  config.features = 2;
  config.outputs = 1;
  config.tied = false;
  config.context = std::max(config.context, length);
  const auto model = make_model(config, generator);
  Adam optimizer(model->parameters(), {.learning_rate = learning_rate});
  AddingResult result{.length = length, .steps = steps};
  const std::int64_t every = std::max<std::int64_t>(1, steps / 20);
  double sum = 0;
  for (std::int64_t step = 1; step <= steps; ++step) {
    const auto [x, y] = adding_batch(length, batch, generator);
    optimizer.zero_grad();
    {
      Tape tape;
      const Tensor loss = adding_loss(*model, x, y);
      sum += loss.item();
      tape.backward(loss);
    }
    optimizer.step({.clip_norm = 1});
    if (step % every == 0) {
      result.curve.emplace_back(step, sum / static_cast<double>(every));
      sum = 0;
      if (progress) progress(static_cast<double>(step) / static_cast<double>(steps));
    }
  }
  const NoGrad constant;
  model->eval();
  constexpr int test_batches = 10;
  for (int i = 0; i < test_batches; ++i) {
    const auto [x, y] = adding_batch(length, 100, generator);
    result.mse += adding_loss(*model, x, y).item() / test_batches;
  }
  return result;
}

}  // namespace unroll
