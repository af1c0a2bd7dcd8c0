#include <unroll/layers/causal_conv.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/reduce.h>

#include <cmath>

namespace unroll::detail {

std::pair<Parameter, Parameter> make_causal_conv(std::int64_t channels, std::int64_t taps,
                                                 Generator& generator) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(taps));
  Parameter weight(generator.uniform({channels, 1, taps}, -bound, bound));
  return {weight, Parameter(generator.uniform({channels}, -bound, bound))};
}

std::pair<Tensor, Tensor> causal_conv_step(const Tensor& x, const Parameter& weight,
                                           const Parameter& bias, const Tensor& past) {
  const Tensor window = concat({past, unsqueeze(x, 1)}, 1);  // [B, taps, D]
  const Tensor taps = transpose(squeeze(weight, 1));         // [taps, D]
  return {sum(window * taps, {1}) + bias, slice(window, 1, 1)};
}

}  // namespace unroll::detail
