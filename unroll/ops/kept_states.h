#pragma once

#include <unroll/graph/tape.h>

namespace unroll::detail {

/// The inputs, alike in dtype, of an op that runs a recurrence over six of them. Its outputs are y,
/// the last state, and states at the beginnings of chunks, from which the way back starts anew.
inline constexpr std::size_t recurrence_inputs = 6;

/// Its vjp. `backward` takes the inputs, the kept states, the gradient of y and, where there is
/// one, that of the last state.
template <class Backward>
void recurrence_vjp(Vjp& v, const Backward& backward) {
  if (!v.grads[0].defined() && !v.grads[1].defined()) return;
  constexpr std::size_t n = recurrence_inputs;
  const Tensor gy = v.grad(0);
  const Tensor* in[n + 3];
  for (std::size_t i = 0; i < n; ++i) in[i] = &v.inputs[i];
  in[n] = &v.outputs[2];
  in[n + 1] = &gy;
  in[n + 2] = &v.grads[1];
  Tensor gradients[n];
  const std::size_t count = v.grads[1].defined() ? n + 3 : n + 2;
  apply(backward, Args({in, count}), gradients, Where::current());
  for (std::size_t i = 0; i < n; ++i)
    if (v.needed[i]) v.result[i] = gradients[i];
}

}  // namespace unroll::detail
