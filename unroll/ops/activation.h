#pragma once

// Activations by name, for layers and ops that take one as an option.

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <utility>

namespace unroll {

enum class Activation : std::uint8_t { relu, gelu };

/// f(x): relu() or gelu().
Tensor activate(Activation f, const Tensor& x, Where where = Where::current());
/// dy f'(x), the gradient of x from that of f(x); to be differentiated again.
Tensor activate_backward(Activation f, const Tensor& x, const Tensor& dy,
                         Where where = Where::current());

/// The gradients of x and of dy in activate_backward(f, x, dy) from that of its result: u dy f''(x)
/// and u f'(x).
std::pair<Tensor, Tensor> activate_second(Activation f, const Tensor& x, const Tensor& dy,
                                          const Tensor& u, Where where = Where::current());

namespace detail {
/// The same on n numbers in memory, with the bits of the ops. dx may lie where dy does.
struct ActivationKernels {
  void (*forward)(const float* x, float* y, std::int64_t n);
  void (*backward)(const float* x, const float* dy, float* dx, std::int64_t n);
};
ActivationKernels activation_kernels(Activation f);
}  // namespace detail

}  // namespace unroll
