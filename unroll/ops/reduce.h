#pragma once

#include <unroll/graph/tensor.h>
#include <unroll/ops/layout.h>

#include <vector>

namespace unroll {

// Reductions over a list of axes, all of them where the list is empty. The axes are dropped, or
// kept with size 1 where `keep_dims`. Throw ShapeError for an axis that is not there or named
// twice. f32 sums are taken in blocks, blocks in double: the error hardly grows with their length.

Tensor sum(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false,
           Where where = Where::current());
/// Throws ShapeError where there is nothing to take the mean of.
Tensor mean(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false,
            Where where = Where::current());
/// The largest element; NaN where there is one. The gradient is shared evenly by all that are
/// equally large (PyTorch's amax). Throws ShapeError where there is nothing to choose from.
Tensor max(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false,
           Where where = Where::current());
/// log(sum(exp(x))) without overflow; -infinity where all elements are.
Tensor logsumexp(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false,
                 Where where = Where::current());

/// Where along `axis` the largest element stands (the first of equal ones; a NaN counts as the
/// largest): i64, that axis dropped. No gradient.
Tensor argmax(const Tensor& x, int axis = -1, Where where = Where::current());

}  // namespace unroll
