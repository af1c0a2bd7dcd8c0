#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/attention.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/softmax.h>
#include <unroll/ops/table.h>

#include <cmath>

namespace unroll {

AttentionOutput attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionOptions& options, Where where) {
  const bool fits = q.rank() == 4 && k.rank() == 4 && v.shape() == k.shape() &&
                    q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3);
  if (!fits)
    throw ShapeError(
        error_message("attention",
                      fmt::format("q {}, k {} and v {} do not fit", to_string(q.shape()),
                                  to_string(k.shape()), to_string(v.shape())),
                      &where, "They are [B, heads, T, D]; k and v are alike"));
  if (options.dropout > 0 && options.generator == nullptr)
    fail("attention", "dropout needs a generator", where);
  const Tensor scores = matmul(q, k, {.transpose_b = true}, where);
  Tensor weights = softmax(scores,
                           {.causal = options.causal,
                            .mask = options.mask,
                            .scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)))},
                           where);
  const Tensor seen = options.dropout > 0
                          ? dropout(weights, options.dropout, *options.generator, true, where)
                          : weights;
  return {matmul(seen, v, {}, where), weights};
}

namespace {

OpSample sample(std::int64_t tq, std::int64_t tk, bool causal) {
  return {.inputs = [=](Generator& g) -> std::vector<Tensor> {
            return {g.normal({2, 3, tq, 4}, 0, 1, DType::f64),
                    g.normal({2, 3, tk, 4}, 0, 1, DType::f64),
                    g.normal({2, 3, tk, 4}, 0, 1, DType::f64)};
          },
          .call = [=](std::span<const Tensor> in) -> std::vector<Tensor> {
            return {attention(in[0], in[1], in[2], {.causal = causal}).output};
          }};
}

const RegisterOp row{{
    .name = "attention",
    .signature = "attention(q, k, v, {.causal, .mask, .dropout, .generator})",
    .summary = "Scaled dot-product attention over heads",
    .samples = {sample(5, 5, true), sample(3, 7, true), sample(4, 6, false)},
    .wrong = {[] {
      attention(Tensor::zeros({1, 2, 3, 4}), Tensor::zeros({1, 2, 3, 5}),
                Tensor::zeros({1, 2, 3, 5}));
    }},
}};

}  // namespace
}  // namespace unroll
