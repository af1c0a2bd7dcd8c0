#include <fmt/format.h>
#include <unroll/optim/adagrad.h>
#include <unroll/optim/elementwise.h>

namespace unroll {
namespace {

OptimizerRule rule(const AdagradOptions& options) {
  if (!(options.learning_rate_decay >= 0 && options.initial_accumulator_value >= 0 &&
        options.eps >= 0))
    fail("Adagrad",
         fmt::format("learning_rate_decay {}, initial_accumulator_value {}, eps {}",
                     options.learning_rate_decay, options.initial_accumulator_value, options.eps),
         "None of them may be negative");
  return {.name = "Adagrad",
          .learning_rate = options.learning_rate,
          .weight_decay = options.weight_decay,
          .moments = {"sum"},
          .initial = options.initial_accumulator_value,
          .scales_gradients = true};
}

}  // namespace

Adagrad::Adagrad(const std::vector<ParameterGroup>& groups, const AdagradOptions& options)
    : Optimizer(groups, rule(options)), options_(options) {}

void Adagrad::update(const ParameterUpdate& parameter) const {
  with_float("Adagrad", parameter.value.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using simd::Lanes;
    const double age = static_cast<double>(parameter.step - 1);
    const Lanes<T> rate(parameter.learning_rate / (1 + age * options_.learning_rate_decay));
    const Lanes<T> decay(parameter.weight_decay), eps(options_.eps);
    detail::update_elements<T, 1>(parameter, [=](Lanes<T>& p, Lanes<T> g, auto& moments) {
      auto& [sum] = moments;
      g = g + decay * p;
      sum = sum + g * g;
      p = p - rate * (g / (sqrt(sum) + eps));
    });
  });
}

}  // namespace unroll
