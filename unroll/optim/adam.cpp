#include <fmt/format.h>
#include <unroll/optim/adam.h>
#include <unroll/optim/elementwise.h>

#include <cmath>

namespace unroll {
namespace {

template <class Options>
OptimizerRule rule(const char* name, const Options& options) {
  const auto below_one = [](double x) { return x >= 0 && x < 1; };
  if (!below_one(options.betas[0]) || !below_one(options.betas[1]) || !(options.eps >= 0))
    fail(name,
         fmt::format("betas {} and {}, eps {}", options.betas[0], options.betas[1], options.eps),
         "betas lie in 0 to 1, 1 excluded, and eps is not negative");
  OptimizerRule result{.name = name,
                       .learning_rate = options.learning_rate,
                       .weight_decay = options.weight_decay,
                       .moments = {"exp_avg", "exp_avg_sq"},
                       .scales_gradients = true};
  if (options.amsgrad) result.moments.push_back("max_exp_avg_sq");
  return result;
}

template <bool amsgrad, class Options>
void adam(const char* name, const Options& options, bool decoupled,
          const ParameterUpdate& parameter) {
  with_float(name, parameter.value.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using simd::Lanes;
    const auto [b1, b2] = options.betas;
    const double step = static_cast<double>(parameter.step);
    const Lanes<T> rate(parameter.learning_rate / (1 - std::pow(b1, step)));
    const Lanes<T> root_correction(std::sqrt(1 - std::pow(b2, step)));
    const Lanes<T> beta1(b1), rest1(1 - b1), beta2(b2), rest2(1 - b2), eps(options.eps);
    const Lanes<T> kept(decoupled ? 1 - parameter.learning_rate * parameter.weight_decay : 1.0);
    const Lanes<T> decay(decoupled ? 0.0 : parameter.weight_decay);
    constexpr std::size_t count = amsgrad ? 3 : 2;
    detail::update_elements<T, count>(parameter, [=](Lanes<T>& p, Lanes<T> g, auto& moments) {
      Lanes<T>& m = moments[0];
      Lanes<T>& v = moments[1];
      p = kept * p;
      g = g + decay * p;
      m = beta1 * m + rest1 * g;
      v = beta2 * v + rest2 * g * g;
      Lanes<T> square = v;
      if constexpr (amsgrad) square = moments[2] = simd::maximum(moments[2], v);
      p = p - rate * (m / (sqrt(square) / root_correction + eps));
    });
  });
}

}  // namespace

Adam::Adam(const std::vector<ParameterGroup>& groups, const AdamOptions& options)
    : Optimizer(groups, rule("Adam", options)), options_(options) {}

void Adam::update(const ParameterUpdate& parameter) const {
  options_.amsgrad ? adam<true>("Adam", options_, false, parameter)
                   : adam<false>("Adam", options_, false, parameter);
}

AdamW::AdamW(const std::vector<ParameterGroup>& groups, const AdamWOptions& options)
    : Optimizer(groups, rule("AdamW", options)), options_(options) {}

void AdamW::update(const ParameterUpdate& parameter) const {
  options_.amsgrad ? adam<true>("AdamW", options_, true, parameter)
                   : adam<false>("AdamW", options_, true, parameter);
}

}  // namespace unroll
