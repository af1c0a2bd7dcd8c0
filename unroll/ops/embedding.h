#pragma once

#include <unroll/graph/tensor.h>

namespace unroll {

/// Row indices[...] of table [V, D], for each of `indices` (i64 or i32): [..., D]. The gradient
/// of the table is 0 but in the rows that were used. Throws ShapeError naming an index that is not
/// in 0..V-1.
Tensor embedding(const Tensor& table, const Tensor& indices, Where where = Where::current());

}  // namespace unroll
