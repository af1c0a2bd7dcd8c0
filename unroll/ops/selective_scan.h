#pragma once

#include <unroll/graph/tensor.h>

#include <array>

namespace unroll {

/// The selective state-space recurrence of Mamba (Gu, Dao, 2023, algorithm 2), of every row of the
/// batch, channel d and state n:
///     h_t[n, d] = exp(dt_t[d] a[d, n]) h_(t-1)[n, d] + dt_t[d] b_t[n] x_t[d]
///     y_t[d] = sum_n c_t[n] h_t[n, d]
/// x, dt [T, B, D], a [D, N], b, c [T, B, N], h0 [B, N, D] (channels last, along which it is
/// computed) give y [T, B, D] and the last state [B, N, D]. Of the states only every 16th is kept
/// for the walk back, which computes those between again.
/// Throws ShapeError where the shapes do not fit.
std::array<Tensor, 2> selective_scan(const Tensor& x, const Tensor& dt, const Tensor& a,
                                     const Tensor& b, const Tensor& c, const Tensor& h0,
                                     Where where = Where::current());

}  // namespace unroll
