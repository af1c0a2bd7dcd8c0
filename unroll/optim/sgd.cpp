#include <fmt/format.h>
#include <unroll/optim/elementwise.h>
#include <unroll/optim/sgd.h>

namespace unroll {
namespace {

OptimizerRule rule(const SGDOptions& options) {
  if (!(options.momentum >= 0)) fail("SGD", fmt::format("momentum {}", options.momentum));
  if (options.nesterov && (options.momentum == 0 || options.dampening != 0))
    fail("SGD",
         fmt::format("nesterov with momentum {} and dampening {}", options.momentum,
                     options.dampening),
         "Nesterov's step needs a momentum and no dampening");
  OptimizerRule result{.name = "SGD",
                       .learning_rate = options.learning_rate,
                       .weight_decay = options.weight_decay,
                       .moments = {},
                       .scales_gradients = true};
  if (options.momentum > 0) result.moments = {"momentum_buffer"};
  return result;
}

}  // namespace

SGD::SGD(const std::vector<ParameterGroup>& groups, const SGDOptions& options)
    : Optimizer(groups, rule(options)), options_(options) {}

void SGD::update(const ParameterUpdate& parameter) const {
  with_float("SGD", parameter.value.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using simd::Lanes;
    const Lanes<T> rate(parameter.learning_rate), decay(parameter.weight_decay);
    if (options_.momentum == 0) {
      detail::update_elements<T, 0>(
          parameter, [=](Lanes<T>& p, Lanes<T> g, auto&) { p = p - rate * (g + decay * p); });
      return;
    }
    const Lanes<T> momentum(options_.momentum);
    const Lanes<T> gain(parameter.step == 1 ? 1.0 : 1.0 - options_.dampening);
    const bool nesterov = options_.nesterov;
    detail::update_elements<T, 1>(parameter, [=](Lanes<T>& p, Lanes<T> g, auto& moments) {
      auto& [b] = moments;
      g = g + decay * p;
      b = momentum * b + gain * g;
      p = p - rate * (nesterov ? g + momentum * b : b);
    });
  });
}

}  // namespace unroll
