#pragma once

#include <unroll/graph/tensor.h>

#include <array>

namespace unroll {

/// Columns begin to begin + width of a tensor's last axis, not copied: pointwise() reads them in
/// place, and writes their gradients in place. Elsewhere it turns into a Tensor, by a slice.
struct Columns {
  Tensor tensor;
  std::int64_t begin = 0;
  std::int64_t width = 0;   ///< 0: the whole tensor
  operator Tensor() const;  // NOLINT: meant to convert
};

namespace detail {
Columns column_chunk(const Tensor& x, int i, int n, const Where& where);
}

/// Cuts the last axis into N equal parts: `auto [i, f, g, o] = chunk<4>(gates);`
/// Throws ShapeError where N does not divide it.
template <int N>
std::array<Columns, N> chunk(const Tensor& x, Where where = Where::current()) {
  std::array<Columns, N> parts;
  for (int i = 0; i < N; ++i) parts[i] = detail::column_chunk(x, i, N, where);
  return parts;
}

/// The same value: the same record on a tape, or the same memory.
inline bool in_same_tensor(const Tensor& a, const Tensor& b) {
  if (a.ref().tape() != 0 || b.ref().tape() != 0)
    return a.ref().tape() == b.ref().tape() && a.ref().serial() == b.ref().serial();
  return !a.is_abstract() && a.bytes() == b.bytes() && a.shape() == b.shape();
}

}  // namespace unroll
