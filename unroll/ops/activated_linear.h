#pragma once

#include <unroll/graph/tensor.h>
#include <unroll/ops/activation.h>

namespace unroll {

/// linear(activate(f, x), weight, bias): x [..., I], weight [O, I], bias [O] if given. From 2^16
/// numbers of x on, for O up to 512 and where products go to matrix tiles (ops/amx.h), f(x) and its
/// derivative are computed where products read and write them: neither is in memory as a whole, and
/// nothing but x is kept. Else it is the two ops, whose bits results and gradients have in any
/// case.
Tensor activated_linear(Activation f, const Tensor& x, const Tensor& weight,
                        const Tensor& bias = {}, Where where = Where::current());

}  // namespace unroll
