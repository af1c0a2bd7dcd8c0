#pragma once

#include <unroll/graph/tensor.h>

namespace unroll {

/// A causal convolution along time of each channel by itself: x [T, B, D], weight [D, 1, K] as
/// PyTorch's Conv1d(D, D, K, groups=D) has it, bias [D] or undefined, and the K - 1 inputs before
/// the first, past [B, K - 1, D], the latest last:
///     y_t = bias + sum_k weight_k x_(t - K + 1 + k)
/// gives y [T, B, D]. Throws ShapeError where the shapes do not fit.
Tensor causal_conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& past,
                     Where where = Where::current());

}  // namespace unroll
