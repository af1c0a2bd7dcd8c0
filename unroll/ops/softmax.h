#pragma once

#include <unroll/graph/tensor.h>

#include <concepts>

namespace unroll {

struct SoftmaxOptions {
  int axis = -1;
  /// For x [..., T_q, T_k] with the last axis: row i sees the columns j <= i + (T_k - T_q). The
  /// hidden part costs nothing.
  bool causal = false;
  /// 1 where x may be seen, 0 where it is hidden; f32, f64 or u8, broadcast to x. With the last
  /// axis. No gradient flows to it.
  Tensor mask = {};
  double scale = 1;  ///< multiplies x first
};

/// e^(scale x) over its sum along an axis. A row in which nothing is visible, or all is -infinity,
/// gives zeros, not NaN. Throws ShapeError where the mask does not broadcast to x, or a causal
/// or masked axis is not the last.
Tensor softmax(const Tensor& x, const SoftmaxOptions& options = {}, Where where = Where::current());
// A template, so that softmax(x, {}) means the options.
template <std::same_as<int> Axis>
Tensor softmax(const Tensor& x, Axis axis, Where where = Where::current()) {
  return softmax(x, SoftmaxOptions{.axis = axis}, where);
}

/// x - logsumexp(x) along `axis`, without overflow.
Tensor log_softmax(const Tensor& x, int axis = -1, Where where = Where::current());

}  // namespace unroll
