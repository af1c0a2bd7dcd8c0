#pragma once

#include <unroll/graph/op.h>

namespace unroll {

/// a + b for equal shapes: how gradients that reach one value over several ways are joined.
Tensor accumulate(const Tensor& a, const Tensor& b);
/// sum += part in place where nothing else refers to `sum` and nothing is recorded.
void accumulate_into(Tensor& sum, const Tensor& part);

}  // namespace unroll
