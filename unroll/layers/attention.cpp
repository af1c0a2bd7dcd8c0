#include <fmt/format.h>
#include <unroll/layers/attention.h>
#include <unroll/layers/positions.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/attention.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>

#include <cmath>

namespace unroll {
namespace {

// [B, 1, 1, T]: 1 for keys within a row's length.
Tensor key_mask(const Tensor& lengths, std::int64_t batch, std::int64_t keys, DType dtype,
                const Where& where) {
  if (lengths.rank() != 1 || lengths.size(0) != batch)
    fail("MultiHeadAttention",
         fmt::format("lengths {} for a batch of {}", to_string(lengths), batch), where);
  const Tensor counts = lengths.to(DType::i64);
  Tensor mask = Tensor::empty({batch, 1, 1, keys}, dtype);
  with_float("MultiHeadAttention", dtype, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t length = counts.data<std::int64_t>()[b];
      if (length < 0 || length > keys)
        fail("MultiHeadAttention",
             fmt::format("length {} of row {} is not within 0 to {}", length, b, keys), where);
      for (std::int64_t t = 0; t < keys; ++t)
        mask.mutable_ptr<T>()[b * keys + t] = t < length ? T(1) : T(0);
    }
  });
  return mask;
}

}  // namespace

MultiHeadAttention::MultiHeadAttention(const MultiHeadAttentionOptions& options,
                                       GeneratorRef generator)
    : out_proj({.in_features = options.embed_dim,
                .out_features = options.embed_dim,
                .bias = options.bias},
               generator),
      options_(options),
      generator_((static_cast<std::uint64_t>(generator->next()) << 32) | generator->next()) {
  const std::int64_t e = options.embed_dim;
  if (options.num_heads < 1 || e % options.num_heads != 0)
    fail("MultiHeadAttention",
         fmt::format("{} heads do not divide embed_dim {}", options.num_heads, e));
  if (!(options.dropout >= 0.0 && options.dropout < 1.0))
    fail("MultiHeadAttention", fmt::format("dropout {} is not in [0, 1)", options.dropout));
  // Xavier's uniform bound of the whole [3E, E] matrix, zero biases: PyTorch's start.
  const double bound = std::sqrt(6.0 / static_cast<double>(4 * e));
  in_proj_weight = Parameter(generator->uniform({3 * e, e}, -bound, bound));
  if (options.bias) {
    in_proj_bias = Parameter(Tensor::zeros({3 * e}));
    out_proj.bias.set_value(Tensor::zeros({e}));
  }
  add("in_proj_weight", in_proj_weight);
  add("in_proj_bias", in_proj_bias);
  add("out_proj", out_proj);
  if (options.dropout > 0) add("generator", generator_);
}

// [T, B, n E] -> [n, B, heads, T, D]
Tensor MultiHeadAttention::heads(const Tensor& x, Where where) const {
  const std::int64_t e = options_.embed_dim, h = options_.num_heads;
  const Tensor apart = reshape(x, {x.size(0), x.size(1), x.size(2) / e, h, e / h}, where);
  return permute(apart, {2, 1, 3, 0, 4}, where);
}

MultiHeadAttentionOutput MultiHeadAttention::operator()(const Tensor& input,
                                                        const AttentionCall& call, Where where) {
  const std::int64_t e = options_.embed_dim;
  if (input.rank() != 3 || input.size(2) != e)
    throw ShapeError(error_message("MultiHeadAttention",
                                   fmt::format("the input is {}, expected {} axes, the last {}",
                                               to_string(input.shape()), 3, e),
                                   &where, ""));
  const Tensor x = options_.batch_first ? transpose(input, 0, 1) : input;
  const Tensor bias = in_proj_bias.defined() ? Tensor(in_proj_bias) : Tensor();
  Tensor q, k, v;
  if (!call.memory.defined()) {
    const Tensor all = heads(linear(x, in_proj_weight, bias, where), where);
    q = select(all, 0, 0);
    k = select(all, 0, 1);
    v = select(all, 0, 2);
  } else {
    const Tensor memory = options_.batch_first ? transpose(call.memory, 0, 1) : call.memory;
    const Tensor weight = in_proj_weight;
    const auto bias_part = [&](std::int64_t begin, std::int64_t end) {
      return bias.defined() ? slice(bias, 0, begin, end) : Tensor();
    };
    q = select(heads(linear(x, slice(weight, 0, 0, e), bias_part(0, e), where), where), 0, 0);
    const Tensor kv =
        heads(linear(memory, slice(weight, 0, e, 3 * e), bias_part(e, 3 * e), where), where);
    k = select(kv, 0, 0);
    v = select(kv, 0, 1);
  }
  const std::int64_t past = call.cache.empty() ? 0 : call.cache[0].size(2);
  if (options_.rotary) {
    q = rotary(q, past, where);
    k = rotary(k, past, where);
  }
  if (past > 0) {
    k = concat({call.cache[0], k}, 2);
    v = concat({call.cache[1], v}, 2);
  }
  Tensor mask = call.mask;
  if (call.lengths.defined()) {
    const Tensor keys = key_mask(call.lengths, k.size(0), k.size(2), x.dtype(), where);
    mask = mask.defined() ? mask.to(x.dtype()) * keys : keys;
  }
  const AttentionOutput result = unroll::attention(q, k, v,
                                                   {.causal = call.causal,
                                                    .mask = mask,
                                                    .dropout = training() ? options_.dropout : 0.0,
                                                    .generator = &generator_},
                                                   where);
  // [B, heads, T, D] -> [T, B, E]
  const Tensor joined = reshape(permute(result.output, {2, 0, 1, 3}, where), x.shape(), where);
  Tensor output = out_proj(joined, where);
  if (options_.batch_first) output = transpose(output, 0, 1);
  return {output, call.need_weights ? result.weights : Tensor(), {k, v}};
}

std::string MultiHeadAttention::describe() const {
  return fmt::format("MultiHeadAttention({}, {} heads{})", options_.embed_dim, options_.num_heads,
                     options_.rotary ? ", rotary" : "");
}

}  // namespace unroll
