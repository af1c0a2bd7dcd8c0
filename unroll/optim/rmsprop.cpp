#include <fmt/format.h>
#include <unroll/optim/elementwise.h>
#include <unroll/optim/rmsprop.h>

namespace unroll {
namespace {

OptimizerRule rule(const RMSpropOptions& options) {
  if (!(options.alpha >= 0 && options.alpha <= 1 && options.eps >= 0 && options.momentum >= 0))
    fail("RMSprop",
         fmt::format("alpha {}, eps {}, momentum {}", options.alpha, options.eps, options.momentum),
         "alpha lies in 0 to 1, the others are not negative");
  OptimizerRule result{.name = "RMSprop",
                       .learning_rate = options.learning_rate,
                       .weight_decay = options.weight_decay,
                       .moments = {"square_avg"},
                       .scales_gradients = true};
  if (options.centered) result.moments.push_back("grad_avg");
  if (options.momentum > 0) result.moments.push_back("momentum_buffer");
  return result;
}

}  // namespace

RMSprop::RMSprop(const std::vector<ParameterGroup>& groups, const RMSpropOptions& options)
    : Optimizer(groups, rule(options)), options_(options) {}

template <bool centered, bool momentum>
void RMSprop::update_as(const ParameterUpdate& parameter) const {
  with_float("RMSprop", parameter.value.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using simd::Lanes;
    const Lanes<T> rate(parameter.learning_rate), decay(parameter.weight_decay);
    const Lanes<T> alpha(options_.alpha), rest(1 - options_.alpha), eps(options_.eps);
    const Lanes<T> kept(options_.momentum);
    constexpr std::size_t count = 1 + centered + momentum;
    detail::update_elements<T, count>(parameter, [=](Lanes<T>& p, Lanes<T> g, auto& moments) {
      g = g + decay * p;
      Lanes<T>& square = moments[0];
      square = alpha * square + rest * g * g;
      Lanes<T> variance = square;
      if constexpr (centered) {
        Lanes<T>& mean = moments[1];
        mean = alpha * mean + rest * g;
        // Rounding can take it below 0 when the gradient stays the same, and the root to NaN.
        variance = simd::maximum(square - mean * mean, T(0));
      }
      Lanes<T> change = g / (sqrt(variance) + eps);
      if constexpr (momentum) {
        Lanes<T>& buffer = moments[count - 1];
        buffer = kept * buffer + change;
        change = buffer;
      }
      p = p - rate * change;
    });
  });
}

void RMSprop::update(const ParameterUpdate& parameter) const {
  const bool momentum = options_.momentum > 0;
  if (options_.centered)
    momentum ? update_as<true, true>(parameter) : update_as<true, false>(parameter);
  else
    momentum ? update_as<false, true>(parameter) : update_as<false, false>(parameter);
}

}  // namespace unroll
