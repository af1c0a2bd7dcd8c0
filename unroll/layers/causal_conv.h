#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/parameter.h>

#include <utility>

namespace unroll::detail {

// What the layers that convolve along time share; all steps at once are ops/causal_conv.h.

/// Weight [channels, 1, taps] and bias [channels] of a depthwise convolution, uniform in
/// +-1/sqrt(taps) as PyTorch's Conv1d has them.
std::pair<Parameter, Parameter> make_causal_conv(std::int64_t channels, std::int64_t taps,
                                                 Generator& generator);

/// One step, of plain ops: x [B, D] and the window before it [B, taps - 1, D] -> y [B, D] and the
/// window behind it.
std::pair<Tensor, Tensor> causal_conv_step(const Tensor& x, const Parameter& weight,
                                           const Parameter& bias, const Tensor& past);

}  // namespace unroll::detail
