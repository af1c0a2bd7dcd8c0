#pragma once

#include <unroll/graph/tensor.h>

namespace unroll {

/// (x - mean) / sqrt(variance + eps) over the last axis of x [..., N], times weight [N], plus bias
/// [N]; either may be left undefined. (Ba, Kiros, Hinton: "Layer normalization", 2016.)
/// Throws ShapeError where weight or bias are not [N].
Tensor layer_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {},
                  double eps = 1e-5, Where where = Where::current());

/// x / sqrt(mean(x^2) + eps) over the last axis of x [..., N], times weight [N], which may be left
/// undefined. (Zhang, Sennrich: "Root mean square layer normalization", 2019.)
Tensor rms_norm(const Tensor& x, const Tensor& weight = {}, double eps = 1e-5,
                Where where = Where::current());

/// What add_layer_norm() and add_rms_norm() give.
struct ResidualNorm {
  Tensor sum;     ///< x + added
  Tensor normed;  ///< its norm
};

/// x + added (both [..., N]) and its layer norm or RMS norm in one pass over memory, forward and
/// back: a residual connection and the norm behind it.
ResidualNorm add_layer_norm(const Tensor& x, const Tensor& added, const Tensor& weight = {},
                            const Tensor& bias = {}, double eps = 1e-5,
                            Where where = Where::current());
ResidualNorm add_rms_norm(const Tensor& x, const Tensor& added, const Tensor& weight = {},
                          double eps = 1e-5, Where where = Where::current());

}  // namespace unroll
