#pragma once

#include <unroll/graph/tensor.h>

namespace unroll {

struct MatmulOptions {
  bool transpose_a = false;  ///< the last two axes of a are swapped
  bool transpose_b = false;
  /// Added to the product: a vector [N] for every row (a bias), or a tensor of the result's shape.
  Tensor add = {};
};

/// a [..., M, K] times b [K, N] or [..., K, N] gives [..., M, N]. Leading axes of a and b are
/// equal, or one of the two has none and is used for all. Transposes are flags, nothing is copied.
/// f32 operands are multiplied in the current tape's precision, f32 without a tape.
/// Throws ShapeError where the inner sizes or the leading axes differ.
Tensor matmul(const Tensor& a, const Tensor& b, const MatmulOptions& options = {},
              Where where = Where::current());

/// x [..., I] times weight [O, I] transposed, plus bias [O] if given: PyTorch's linear.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              Where where = Where::current());

}  // namespace unroll
