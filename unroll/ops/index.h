#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace unroll {

// Parts of tensors, and tensors made of parts. Negative axes and positions count from the end.
// All throw ShapeError where axes, positions, sizes or indices do not fit.

/// As `end` of a slice: up to the end of the axis.
inline constexpr std::int64_t to_end = std::numeric_limits<std::int64_t>::max();

/// Every `step`-th element of `axis` from `begin` up to, not including, `end`. Along the leading
/// axis with step 1 it shares the buffer; elsewhere it is a copy.
Tensor slice(const Tensor& x, int axis, std::int64_t begin, std::int64_t end = to_end,
             std::int64_t step = 1, Where where = Where::current());
/// Element i of `axis`, that axis gone. Its gradient is as large as x: a loop over time that
/// selects every step walks back in quadratic time; take unbind() there.
Tensor select(const Tensor& x, int axis, std::int64_t i, Where where = Where::current());

/// Tensors side by side along `axis`; the other sizes are equal.
Tensor concat(std::span<const Tensor> tensors, int axis = 0, Where where = Where::current());
inline Tensor concat(std::initializer_list<Tensor> tensors, int axis = 0,
                     Where where = Where::current()) {
  return concat(std::span(tensors.begin(), tensors.size()), axis, where);
}
/// Tensors of one shape along a new axis.
Tensor stack(std::span<const Tensor> tensors, int axis = 0, Where where = Where::current());
inline Tensor stack(std::initializer_list<Tensor> tensors, int axis = 0,
                    Where where = Where::current()) {
  return stack(std::span(tensors.begin(), tensors.size()), axis, where);
}

/// The undoing of concat: parts of these sizes, which add up to the axis.
std::vector<Tensor> split(const Tensor& x, const std::vector<std::int64_t>& sizes, int axis = 0,
                          Where where = Where::current());
/// That many equal parts.
std::vector<Tensor> split(const Tensor& x, std::int64_t parts, int axis = 0,
                          Where where = Where::current());
/// The undoing of stack: every element of `axis`. Walking back through it costs one pass, where a
/// select() per element costs a pass each.
std::vector<Tensor> unbind(const Tensor& x, int axis = 0, Where where = Where::current());

/// For each element of `index` (i64 or i32, of x's rank): x with the position along `axis`
/// replaced by it (PyTorch's gather). Away from `axis`, index is no larger than x.
Tensor gather(const Tensor& x, int axis, const Tensor& index, Where where = Where::current());

/// x, but `value` where mask (of x's dtype, broadcast) is not 0. The gradient stops there.
Tensor masked_fill(const Tensor& x, const Tensor& mask, double value,
                   Where where = Where::current());

/// indices [...] (i64 or i32) as [..., classes]: 1 at the index, 0 elsewhere. No gradient.
Tensor one_hot(const Tensor& indices, std::int64_t classes, DType dtype = DType::f32,
               Where where = Where::current());

}  // namespace unroll
