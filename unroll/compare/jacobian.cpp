#include <fmt/format.h>
#include <unroll/compare/inside.h>
#include <unroll/compare/inside_run.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace unroll {
namespace {

double norm(const State& state) {
  double sum = 0;
  for (const Tensor& one : state) {
    const Tensor exact = one.to(DType::f64);
    for (const double v : exact.data<double>()) sum += v * v;
  }
  return std::sqrt(sum);
}

State scaled(State state, double factor) {
  for (Tensor& one : state) one = one * factor;
  return state;
}

State random_like(const State& state, Generator& generator) {
  State result;
  for (const Tensor& one : state)
    result.push_back(generator.normal(one.shape(), 0, 1, one.dtype()));
  return scaled(result, 1 / norm(result));
}

std::int64_t numbers_in(const State& state) {
  std::int64_t n = 0;
  for (const Tensor& one : state) n += one.numel();
  return n;
}

// One recorded step: from a derivative by the state behind it to that by the state before it.
class Pullback {
 public:
  template <class Step>
  Pullback(const State& before, const Step& step) {
    for (const Tensor& one : before) before_.push_back(tape_.watch(one));
    after_ = step(before_);
    tape_.stop();
  }
  State operator()(const State& u) { return tape_.gradient(after_, before_, {.seeds = u}); }
  const State& after() const { return after_; }

 private:
  Tape tape_;
  State before_, after_;
};

// Row i is the derivative of number i of the state behind the step, [n, n] f64.
Tensor matrix_of(Pullback& pullback) {
  State unit;
  for (const Tensor& one : pullback.after())
    unit.push_back(Tensor::zeros(one.shape(), one.dtype()));
  const std::int64_t n = numbers_in(unit);
  Tensor matrix = Tensor::empty({n, n}, DType::f64);
  double* row = matrix.mutable_ptr<double>();
  for (Tensor& part : unit) {
    const Tensor zeros = part;
    for (std::int64_t i = 0; i < zeros.numel(); ++i) {
      part = zeros.clone();
      with_float("jacobian", part.dtype(),
                 [&](auto zero) { part.mutable_ptr<decltype(zero)>()[i] = 1; });
      for (const Tensor& one : pullback(unit)) {
        const Tensor exact = one.to(DType::f64);
        row = std::ranges::copy(exact.data<double>(), row).out;
      }
    }
    part = zeros;
  }
  return matrix;
}

// The growth of u J, u J J, ...: its mean over all but the first quarter, in which u turns.
double power_radius(Pullback& pullback, const State& state, int iterations, Generator& generator) {
  State u = random_like(state, generator);
  const int skipped = iterations / 4;
  double sum = 0;
  for (int i = 0; i < iterations; ++i) {
    u = pullback(u);
    const double growth = norm(u);
    if (growth == 0) return 0;
    u = scaled(std::move(u), 1 / growth);
    if (i >= skipped) sum += std::log(growth);
  }
  return std::exp(sum / (iterations - skipped));
}

void check_sequence(const char* what, const SequenceModel& model, const Tensor& x,
                    std::int64_t least) {
  if (!model.constant_state())
    fail(what, fmt::format("the state of a {} grows with the sequence", model.describe()),
         "Its attention_maps() show where it looks");
  if (x.rank() < 2 || x.size(1) != 1 || x.size(0) < least)
    fail_shape(what, fmt::format("x is {}, expected one sequence [T, 1, ...] of {} steps or more",
                                 to_string(x.shape()), least));
}

void check_square(const char* what, const Tensor& matrix) {
  if (matrix.rank() != 2 || matrix.size(0) != matrix.size(1) || matrix.numel() == 0)
    fail_shape(what, fmt::format("a matrix {} is not square", to_string(matrix.shape())));
}

}  // namespace

detail::LayerRun detail::run_steps(const ModelLayer& layer, std::vector<Tensor> inputs) {
  if (!layer.step)
    fail("inside", "a layer that looks at all steps at once has no state of one size");
  LayerRun run{.inputs = std::move(inputs), .outputs = {}, .states = {}};
  State state = layer.cell->initial_state(run.inputs[0].size(0), run.inputs[0].dtype());
  for (const Tensor& x : run.inputs) {
    run.states.push_back(state);
    Output next = layer.step(x, state);
    run.outputs.push_back(std::move(next.output));
    state = std::move(next.state);
  }
  return run;
}

double spectral_radius(const Tensor& matrix) {
  check_square("spectral_radius", matrix);
  constexpr int squarings = 16;
  const NoGrad constant;
  Tensor power = matrix.to(DType::f64);
  // matrix^(2^i) is e^log_norm power, and |power| = 1.
  double log_norm = 0;
  for (int i = 0;; ++i) {
    const double size = norm({power});
    if (size == 0) return 0;
    log_norm += std::log(size);
    if (i == squarings) return std::exp(std::ldexp(log_norm, -squarings));
    power = affine(power, 1 / size, 0);
    power = matmul(power, power);
    log_norm *= 2;
  }
}

double spectral_norm(const Tensor& matrix) {
  check_square("spectral_norm", matrix);
  const NoGrad constant;
  const Tensor a = matrix.to(DType::f64);
  Generator generator(1);
  Tensor v = generator.normal({1, a.size(0)}, 0, 1, DType::f64);
  double found = 0;
  for (int i = 0; i < 1000; ++i) {
    const double size = norm({v});
    if (size == 0) return 0;
    v = v * (1 / size);
    const Tensor image = matmul(v, a);
    const double before = std::exchange(found, norm({image}));
    if (std::abs(found - before) <= 1e-9 * found) break;
    v = matmul(image, a, {.transpose_b = true});
  }
  return found;
}

std::vector<std::vector<StepJacobian>> step_jacobians(SequenceModel& model, const Tensor& x,
                                                      Generator& generator,
                                                      const JacobianOptions& options) {
  check_sequence("step_jacobians", model, x, 1);
  if (options.count < 1 || options.iterations < 4)
    fail("step_jacobians",
         fmt::format("{} steps, {} iterations", options.count, options.iterations));
  const detail::Evaluating evaluating(model);
  const ModelParts parts = model.parts();
  const std::int64_t steps = x.size(0), count = std::min(options.count, steps);
  std::vector<std::vector<StepJacobian>> layers;
  Tensor below;
  {
    const NoGrad constant;
    below = parts.enter(model.embed(x));
  }
  for (const ModelLayer& layer : parts.layers) {
    detail::LayerRun run;
    {
      const NoGrad constant;
      run = detail::run_steps(layer, unbind(below));
      below = stack(run.outputs);
    }
    std::vector<StepJacobian>& found = layers.emplace_back();
    for (std::int64_t i = 1; i <= count; ++i) {
      // The last of count equal parts each: near the beginning the state is not yet a usual one.
      const std::int64_t t = i * steps / count - 1;
      const State& state = run.states[static_cast<std::size_t>(t)];
      Pullback pullback(state, [&](const State& s) {
        return layer.step(run.inputs[static_cast<std::size_t>(t)], s).state;
      });
      StepJacobian& one = found.emplace_back(StepJacobian{.step = t});
      if (numbers_in(state) <= options.exact) {
        const Tensor matrix = matrix_of(pullback);
        one.radius = spectral_radius(matrix);
        one.norm = spectral_norm(matrix);
      } else {
        one.radius = power_radius(pullback, state, options.iterations, generator);
        one.norm = std::numeric_limits<double>::quiet_NaN();
      }
    }
  }
  return layers;
}

StateGrowth state_growth(SequenceModel& model, const Tensor& x, Generator& generator) {
  check_sequence("state_growth", model, x, 5);
  const detail::Evaluating evaluating(model);
  const std::int64_t steps = x.size(0);
  std::vector<State> states;  // that enter each step but the first
  {
    const NoGrad constant;
    for (std::int64_t t = 0; t < steps; ++t)
      states.push_back(model(x.rows(t, t + 1), states.empty() ? State{} : states.back()).state);
  }
  StateGrowth result;
  State u = random_like(states.back(), generator);
  double log_norm = 0;
  for (std::int64_t t = steps - 1; t >= 1; --t) {
    Pullback pullback(states[static_cast<std::size_t>(t - 1)],
                      [&](const State& s) { return model(x.rows(t, t + 1), s).state; });
    u = pullback(u);
    const double growth = norm(u);
    log_norm += std::log(growth);
    result.log_norms.push_back(log_norm);
    if (growth == 0) break;  // minus infinity from here on
    u = scaled(std::move(u), 1 / growth);
  }
  const std::size_t last = result.log_norms.size() - 1, first = last / 5;
  result.exponent =
      std::isinf(result.log_norms[last])
          ? -INFINITY
          : (result.log_norms[last] - result.log_norms[first]) / static_cast<double>(last - first);
  return result;
}

}  // namespace unroll
