#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace unroll {

// The same elements in another order or shape. Negative axes count from the end everywhere.
// All throw ShapeError where axes or sizes do not fit.

/// The same elements in row-major order as `sizes`, one of which may be -1: whatever is left.
/// Shares the buffer, nothing is copied.
Tensor reshape(const Tensor& x, std::span<const std::int64_t> sizes,
               Where where = Where::current());
inline Tensor reshape(const Tensor& x, std::initializer_list<std::int64_t> sizes,
                      Where where = Where::current()) {
  return reshape(x, std::span(sizes.begin(), sizes.size()), where);
}
inline Tensor reshape(const Tensor& x, const Shape& shape, Where where = Where::current()) {
  return reshape(x, std::span(shape.begin(), static_cast<std::size_t>(shape.rank())), where);
}

/// Axes `from` to `to` (both included) become one.
Tensor flatten(const Tensor& x, int from = 0, int to = -1, Where where = Where::current());
/// A new axis of size 1 before `axis`; -1 appends one.
Tensor unsqueeze(const Tensor& x, int axis, Where where = Where::current());
/// Without `axis`, whose size must be 1.
Tensor squeeze(const Tensor& x, int axis, Where where = Where::current());

/// Axis i of the result is axis axes[i] of x [any]; a copy.
Tensor permute(const Tensor& x, const std::vector<int>& axes, Where where = Where::current());
/// Two axes change places; a copy. (matmul takes a transpose as a flag, without one.)
Tensor transpose(const Tensor& x, int axis_a = -2, int axis_b = -1, Where where = Where::current());
/// The order along `axis` turned round.
Tensor flip(const Tensor& x, int axis, Where where = Where::current());

/// x repeated along its axes of size 1, and along new ones in front, up to `shape`: what NumPy
/// calls broadcast_to. The gradient is summed back (sum_to).
Tensor expand(const Tensor& x, const Shape& shape, Where where = Where::current());

}  // namespace unroll
