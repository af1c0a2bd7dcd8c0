#pragma once

#include <unroll/graph/tensor.h>
#include <unroll/ops/activation.h>

namespace unroll {

/// linear(activate(f, x), weight, bias): x [..., I], weight [O, I], bias [O] if given. Large ones
/// on matrix tiles compute f(x) and its derivative where products read and write them, so that
/// neither is ever in memory as a whole: of a Transformer's feed-forward network that saves a
/// quarter of what is kept, and the way there and back. The bits are those of the two ops.
Tensor activated_linear(Activation f, const Tensor& x, const Tensor& weight,
                        const Tensor& bias = {}, Where where = Where::current());

}  // namespace unroll
