#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/tensor.h>

namespace unroll {

struct AttentionOptions {
  /// Query i sees keys up to i + (T_k - T_q): the last query sees all.
  bool causal = false;
  /// 1 where a key may be seen, 0 where not; broadcasts to [B, H, T_q, T_k].
  Tensor mask = {};
  double dropout = 0;              ///< of attention weights; needs `generator`
  Generator* generator = nullptr;  ///< advanced by the draw
};

/// What attention gives: output [B, H, T_q, D] and weights [B, H, T_q, T_k].
struct AttentionOutput {
  Tensor output;
  Tensor weights;
};

/// softmax(q k^T / sqrt(D)) v (Vaswani et al., "Attention is all you need", 2017, eq. 1).
/// q [B, H, T_q, D], k and v [B, H, T_k, D]. A query that sees no key gives zeros.
/// Throws ShapeError where the shapes do not fit.
AttentionOutput attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionOptions& options = {}, Where where = Where::current());

}  // namespace unroll
