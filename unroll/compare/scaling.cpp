#include <unroll/compare/probes.h>
#include <unroll/graph/clock.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/reduce.h>
#include <unroll/optim/adam.h>
#include <unroll/train/stream.h>

#include <algorithm>
#include <cmath>

namespace unroll {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Inputs of a model, whatever it takes: [T, B] tokens or [T, B, F] numbers.
Tensor random_input(const ModelConfig& config, std::int64_t steps, std::int64_t batch,
                    Generator& generator) {
  if (config.features > 0) return generator.normal({steps, batch, config.features}, 0, 1);
  Tensor tokens = Tensor::empty({steps, batch}, DType::i64);
  for (std::int64_t& token : tokens.mutable_data<std::int64_t>())
    token = generator.below(config.vocabulary);
  return tokens;
}

}  // namespace

double fitted_exponent(std::span<const double> x, std::span<const double> y) {
  double mx = 0, my = 0, xy = 0, xx = 0;
  const auto n = static_cast<double>(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    mx += std::log(x[i]) / n;
    my += std::log(y[i]) / n;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (std::log(x[i]) - mx) * (std::log(y[i]) - my);
    xx += (std::log(x[i]) - mx) * (std::log(x[i]) - mx);
  }
  return xx > 0 ? xy / xx : 0;
}

Scaling measure_scaling(const ModelConfig& given, std::span<const std::int64_t> lengths,
                        std::int64_t batch, double seconds_a_point, Generator& generator) {
  Scaling result;
  ModelConfig config = given;
  config.context = std::max(config.context, *std::max_element(lengths.begin(), lengths.end()));
  const auto model = make_model(config, generator);
  Adam optimizer(model->parameters(), {.learning_rate = 1e-4});
  for (std::int64_t length : lengths) {
    const Tensor x = random_input(config, length, batch, generator);
    std::vector<double> times;
    ScalingPoint point{.length = length};
    const auto start = Clock::now();
    // The first two runs compile kernels and fill caches.
    for (int run = 0; run < 3 || seconds_since(start) < seconds_a_point; ++run) {
      reset_peak_memory();
      const auto begin = Clock::now();
      optimizer.zero_grad();
      {
        Tape tape;
        tape.backward(mean(square((*model)(x).output)));
      }
      optimizer.step();
      if (run > 1) times.push_back(seconds_since(begin));
      point.bytes = memory_stats().peak;
    }
    point.seconds = median(times);
    result.points.push_back(point);
  }
  const std::size_t half = result.points.size() / 2;
  std::vector<double> x, seconds, bytes;
  for (std::size_t i = half; i < result.points.size(); ++i) {
    x.push_back(static_cast<double>(result.points[i].length));
    seconds.push_back(result.points[i].seconds);
    bytes.push_back(static_cast<double>(result.points[i].bytes));
  }
  result.time_exponent = fitted_exponent(x, seconds);
  result.memory_exponent = fitted_exponent(x, bytes);
  return result;
}

std::vector<StreamingPoint> measure_streaming(SequenceModel& model, const ModelConfig& config,
                                              std::span<const std::int64_t> positions,
                                              Generator& generator) {
  model.eval();
  // One step's rows: [1] tokens or [1, F] numbers.
  const Tensor x = random_input(config, 1, 1, generator).row(0);
  std::vector<StreamingPoint> points;
  for (std::int64_t position : positions) {
    // Attention keeps all of the past, so that what it costs shows.
    Stream stream(model, {.window = model.constant_state() ? 0 : position});
    stream.step(x);
    StreamState before = stream.state();
    before.position = position - 1;
    std::vector<double> times;
    for (int run = 0; run < 60; ++run) {
      stream.restore(before);
      const auto begin = Clock::now();
      stream.step(x);
      if (run >= 10) times.push_back(seconds_since(begin));
    }
    points.push_back({.position = position,
                      .microseconds = median(times) * 1e6,
                      .state_bytes = stream.state_bytes()});
  }
  return points;
}

}  // namespace unroll
