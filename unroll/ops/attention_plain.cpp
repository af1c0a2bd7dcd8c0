#include <unroll/ops/arithmetic.h>
#include <unroll/ops/attention_plain.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/softmax.h>

#include <cmath>

namespace unroll::detail {
namespace {

double scale_of(const Tensor& q) { return 1.0 / std::sqrt(static_cast<double>(q.size(3))); }

// What lengths and the window hide, [B or 1, 1, T_q or 1, T_k], with the mask.
Tensor whole_mask(const Tensor& q, const Tensor& k, const AttentionOptions& o) {
  if (!o.lengths.defined() && o.window == 0) return o.mask;
  const std::int64_t batch = o.lengths.defined() ? q.size(0) : 1, keys = k.size(2),
                     queries = o.window > 0 ? q.size(2) : 1, offset = keys - q.size(2);
  const Tensor lengths = o.lengths.defined() ? o.lengths.to(DType::i64) : Tensor();
  Tensor seen = Tensor::empty({batch, 1, queries, keys}, q.dtype());
  if (!seen.is_abstract())
    with_float("attention", q.dtype(), [&](auto zero) {
      using T = decltype(zero);
      T* p = seen.mutable_ptr<T>();
      for (std::int64_t b = 0; b < batch; ++b)
        for (std::int64_t i = 0; i < queries; ++i)
          for (std::int64_t j = 0; j < keys; ++j) {
            const bool within = !lengths.defined() || j < lengths.data<std::int64_t>()[b];
            const bool near = o.window == 0 || j > i + offset - o.window;
            *p++ = within && near ? T(1) : T(0);
          }
    });
  return o.mask.defined() ? o.mask.to(q.dtype()) * seen : seen;
}

// [B, H, T, N] as [B, H_kv, H / H_kv T, N]: heads that share keys and values are rows of theirs.
Tensor grouped(const Tensor& x, std::int64_t kv_heads, const Where& where) {
  if (x.size(1) == kv_heads) return x;
  return reshape(x, {x.size(0), kv_heads, x.size(1) / kv_heads * x.size(2), x.size(3)}, where);
}
Tensor ungrouped(const Tensor& x, std::int64_t heads, const Where& where) {
  if (x.size(1) == heads) return x;
  return reshape(x, {x.size(0), heads, x.size(1) * x.size(2) / heads, x.size(3)}, where);
}

Tensor weights_of(const Tensor& q, const Tensor& k, const AttentionOptions& o, const Where& where) {
  const Tensor scores = matmul(grouped(q, k.size(1), where), k, {.transpose_b = true}, where);
  return softmax(ungrouped(scores, q.size(1), where),
                 {.causal = o.causal, .mask = whole_mask(q, k, o), .scale = scale_of(q)}, where);
}

Tensor dropped(const Tensor& weights, const AttentionOptions& o, const Where& where) {
  return o.dropout > 0 ? dropout(weights, o.dropout, *o.generator, true, where) : weights;
}

}  // namespace

AttentionOutput plain_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                const AttentionOptions& options, const Where& where) {
  const Tensor weights = weights_of(q, k, options, where);
  const Tensor seen = grouped(dropped(weights, options, where), k.size(1), where);
  return {ungrouped(matmul(seen, v, {}, where), q.size(1), where), weights};
}

std::array<Tensor, 3> plain_attention_grads(const Tensor& q, const Tensor& k, const Tensor& v,
                                            const Tensor& g, const AttentionOptions& options) {
  const Where where = Where::current();
  const std::int64_t heads = q.size(1), kv_heads = k.size(1);
  const Tensor weights = weights_of(q, k, options, where);
  const Tensor rows = grouped(g, kv_heads, where);
  Tensor dw = ungrouped(matmul(rows, v, {.transpose_b = true}, where), heads, where);
  Tensor seen = weights;
  if (options.dropout > 0) {
    // The same numbers for both: dropout is linear.
    Generator again = *options.generator;
    seen = dropped(weights, options, where);
    dw = dropout(dw, options.dropout, again, true, where);
  }
  const Tensor ds = grouped(affine(weights * (dw - sum(weights * dw, {-1}, true)), scale_of(q), 0),
                            kv_heads, where);
  return {ungrouped(matmul(ds, k, {}, where), heads, where),
          matmul(ds, grouped(q, kv_heads, where), {.transpose_a = true}, where),
          matmul(grouped(seen, kv_heads, where), rows, {.transpose_a = true}, where)};
}

Tensor heads_apart(const Tensor& x, std::int64_t heads, const Where& where) {
  const Tensor apart = reshape(x, {x.size(0), x.size(1), heads, x.size(2) / heads}, where);
  return permute(apart, {1, 2, 0, 3}, where);
}

Tensor heads_joined(const Tensor& x, const Where& where) {
  return reshape(permute(x, {2, 0, 1, 3}, where), {x.size(2), x.size(0), x.size(1) * x.size(3)},
                 where);
}

}  // namespace unroll::detail
