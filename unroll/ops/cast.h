#pragma once

#include <unroll/graph/tensor.h>

namespace unroll {

/// x in another dtype; x itself where it has that dtype. Gradients flow between f32 and f64.
Tensor cast(const Tensor& x, DType dtype, Where where = Where::current());

}  // namespace unroll
