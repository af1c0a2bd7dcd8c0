#pragma once

#include <unroll/graph/generator.h>
#include <unroll/ops/columns.h>

namespace unroll {

struct AttentionOptions {
  /// Query i sees keys up to i + (T_k - T_q): the last query sees all.
  bool causal = false;
  /// With causal: of these keys a query sees the last `window` alone; 0: all.
  std::int64_t window = 0;
  /// [B] i64 or i32: keys from a row's length on are hidden, and never read. What else hides keys
  /// gives them a weight of 0, so that their values must be finite.
  Tensor lengths = {};
  /// 1 where a key may be seen, 0 where not; broadcasts to [B, H, T_q, T_k].
  Tensor mask = {};
  double dropout = 0;              ///< of attention weights; needs `generator`
  Generator* generator = nullptr;  ///< advanced by the draw
  /// Gives the weights too, by the plain form: memory for all T_q T_k of them.
  bool need_weights = false;
};

/// What attention gives: its output and, where asked for, the weights [B, H, T_q, T_k] before
/// dropout.
struct AttentionOutput {
  Tensor output;
  Tensor weights;
};

/// softmax(q k^T / sqrt(D)) v (Vaswani et al., "Attention is all you need", 2017, eq. 1), exact,
/// computed by tiles: memory grows with T_q + T_k (Dao, "FlashAttention-2", 2023).
/// q [B, H, T_q, D], k and v [B, H_kv, T_k, D] -> [B, H, T_q, D]; H_kv divides H, and each
/// key-value head serves H / H_kv heads that follow each other. A query that sees no key gives
/// zeros. Throws ShapeError where the shapes do not fit.
AttentionOutput attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionOptions& options = {}, Where where = Where::current());

/// The same where time leads and heads lie side by side, as a projection leaves them: q
/// [T_q, B, H D], k and v [T_k, B, H_kv D] -> [T_q, B, H D]. They may be columns of one tensor
/// (`auto [q, k, v] = chunk<3>(projection)`): these are read, and their gradients written, in
/// place.
AttentionOutput attention(const Columns& q, const Columns& k, const Columns& v, std::int64_t heads,
                          const AttentionOptions& options = {}, Where where = Where::current());

}  // namespace unroll
