#pragma once

#include <unroll/ops/attention.h>

#include <array>

namespace unroll::detail {

/// Attention as a composition of ops, with weights: the tiled form's slow twin. q [B, H, T_q, D],
/// k and v [B, H_kv, T_k, D].
AttentionOutput plain_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                const AttentionOptions& options, const Where& where);

/// The gradients by q, k and v of its output, whose own is g: in ops, so that they have gradients.
std::array<Tensor, 3> plain_attention_grads(const Tensor& q, const Tensor& k, const Tensor& v,
                                            const Tensor& g, const AttentionOptions& options);

/// [T, B, H D] -> [B, H, T, D], and back.
Tensor heads_apart(const Tensor& x, std::int64_t heads, const Where& where);
Tensor heads_joined(const Tensor& x, const Where& where);

}  // namespace unroll::detail
