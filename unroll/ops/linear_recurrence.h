#pragma once

#include <unroll/graph/tensor.h>

namespace unroll {

/// h_t = a_t h_(t-1) + b_t, element by element: a, b [T, ...] and the state before, h0 [...], give
/// all states [T, ...]. The recurrence of minGRU, minLSTM and every diagonal state-space model.
/// Walking back needs a, h0 and the result, nothing else.
/// Throws ShapeError where the shapes do not fit.
Tensor linear_recurrence(const Tensor& a, const Tensor& b, const Tensor& h0,
                         Where where = Where::current());

}  // namespace unroll
