#pragma once

#include <unroll/graph/tensor.h>

#include <array>

namespace unroll {

/// The matrix-valued recurrence of RWKV-6 (Peng et al., 2024, "Eagle and Finch", equations 19-20):
/// of every row of the batch and head, with C = heads * S,
///     y_t = r_t (S_(t-1) + diag(u) k_t^T v_t)
///     S_t = diag(w_t) S_(t-1) + k_t^T v_t
/// r, k, v, w [T, B, C] (w: the decay itself, 0 to 1), u [heads, S] and the state before, s0
/// [B, heads, S, S] (rows by k, columns by v), give y [T, B, C] and the last state. Of the states
/// only every 32nd is kept for the walk back, which computes those between again.
/// Throws ShapeError where the shapes do not fit.
std::array<Tensor, 2> wkv6(const Tensor& r, const Tensor& k, const Tensor& v, const Tensor& w,
                           const Tensor& u, const Tensor& s0, Where where = Where::current());

}  // namespace unroll
