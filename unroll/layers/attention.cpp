#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/layers/attention.h>
#include <unroll/layers/positions.h>
#include <unroll/layers/step_form.h>
#include <unroll/ops/attention.h>
#include <unroll/ops/attention_step.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>

#include <cmath>
#include <cstring>

namespace unroll {
namespace {

// Keys and values as they are kept: the last 2K columns.
Tensor last_columns(const Tensor& x, std::int64_t k) {
  const std::int64_t width = x.size(2);
  return width == 2 * k ? x : slice(x, 2, width - 2 * k, width);
}

// Rows of keys and values into a cache with room; gives all rows that are in use then.
Tensor written_behind(const State& cache, std::int64_t past, const Tensor& rows, Where where) {
  if (Tape::current() != nullptr)
    fail("MultiHeadAttention", "a cache with room would be written to on a tape", where,
         "Give {.cache} without {.past}");
  const std::int64_t end = past + rows.size(0);
  const bool fits = cache.size() == 1 && cache[0].rank() == 3 && past >= 0 &&
                    end <= cache[0].size(0) && cache[0].size(1) == rows.size(1) &&
                    cache[0].size(2) == rows.size(2) && cache[0].dtype() == rows.dtype();
  if (!fits)
    throw ShapeError(
        error_message("MultiHeadAttention",
                      fmt::format("{} behind {} rows of {}", to_string(rows), past,
                                  cache.size() == 1 ? to_string(cache[0]) : "no cache"),
                      &where, "A cache with room is [R, B, 2K], and R is not exceeded"));
  Tensor used = cache[0].rows(0, end), place = used.rows(past, end);
  if (!used.is_abstract())
    std::memcpy(place.bytes(), rows.bytes(),
                static_cast<std::size_t>(rows.numel() * size_of(rows.dtype())));
  return used;
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
  if (options.kv_heads == 0) options_.kv_heads = options.num_heads;
  if (options_.kv_heads < 1 || options.num_heads % options_.kv_heads != 0)
    fail("MultiHeadAttention",
         fmt::format("{} heads of keys and values do not divide {} heads", options.kv_heads,
                     options.num_heads),
         "kv_heads is 0, for as many, or a divisor of num_heads");
  if (!(options.dropout >= 0.0 && options.dropout < 1.0))
    fail("MultiHeadAttention", fmt::format("dropout {} is not in [0, 1)", options.dropout));
  // Xavier's uniform bound of the whole [E + 2K, E] matrix, zero biases: PyTorch's start.
  const std::int64_t rows = e + 2 * key_width();
  const double bound = std::sqrt(6.0 / static_cast<double>(rows + e));
  in_proj_weight = Parameter(generator->uniform({rows, e}, -bound, bound));
  if (options.bias) {
    in_proj_bias = Parameter(Tensor::zeros({rows}));
    out_proj.bias.set_value(Tensor::zeros({e}));
  }
  add("in_proj_weight", in_proj_weight);
  add("in_proj_bias", in_proj_bias);
  add("out_proj", out_proj);
  if (options.dropout > 0) add("generator", generator_);
}

// Rotates the columns of the first `heads` heads of x [T, B, n E / num_heads].
Tensor MultiHeadAttention::rotated(const Tensor& x, std::int64_t heads, std::int64_t past,
                                   Where where) const {
  const std::int64_t size = options_.embed_dim / options_.num_heads, end = heads * size;
  const Tensor apart = reshape(slice(x, 2, 0, end), {x.size(0), x.size(1), heads, size}, where);
  const Tensor turned = reshape(rotary(apart, past, 0, where), {x.size(0), x.size(1), end}, where);
  return x.size(2) == end ? turned : concat({turned, slice(x, 2, end, x.size(2))}, 2);
}

// Columns begin .. end of the projection alone; what comes first of them is turned.
Tensor MultiHeadAttention::in_proj(const Tensor& x, std::int64_t begin, std::int64_t end,
                                   std::int64_t past, Where where) const {
  const Tensor bias = in_proj_bias.defined() ? slice(in_proj_bias, 0, begin, end) : Tensor();
  const Tensor result = linear(x, slice(in_proj_weight, 0, begin, end), bias, where);
  const std::int64_t heads = begin == 0 ? options_.num_heads : options_.kv_heads;
  return options_.rotary ? rotated(result, heads, past, where) : result;
}

Tensor MultiHeadAttention::keys_and_values(const Tensor& memory, std::int64_t past,
                                           Where where) const {
  if (memory.rank() != 3 || memory.size(2) != options_.embed_dim)
    throw ShapeError(error_message("MultiHeadAttention",
                                   fmt::format("the memory is {}, expected {} axes, the last {}",
                                               to_string(memory.shape()), 3, options_.embed_dim),
                                   &where, ""));
  return in_proj(options_.batch_first ? transpose(memory, 0, 1) : memory, options_.embed_dim,
                 options_.embed_dim + 2 * key_width(), past, where);
}

MultiHeadAttentionOutput MultiHeadAttention::operator()(const Tensor& input,
                                                        const AttentionCall& call, Where where) {
  const std::int64_t e = options_.embed_dim, k = key_width();
  if (input.rank() != 3 || input.size(2) != e)
    throw ShapeError(error_message("MultiHeadAttention",
                                   fmt::format("the input is {}, expected {} axes, the last {}",
                                               to_string(input.shape()), 3, e),
                                   &where, ""));
  const Tensor x = options_.batch_first ? transpose(input, 0, 1) : input;
  if (call.projected.defined() && (call.projected.rank() != 3 || call.projected.size(2) != 2 * k))
    throw ShapeError(error_message("MultiHeadAttention",
                                   fmt::format("projected is {}, expected [T_k, B, {}]",
                                               to_string(call.projected.shape()), 2 * k),
                                   &where, "It is what keys_and_values() makes of a memory"));
  if (call.projected.defined() && call.memory.defined())
    fail("MultiHeadAttention", "has {.memory} and {.projected}, which of them is meant?", where,
         "Give one: keys_and_values() has put into {.projected} all that is needed of the memory");
  const std::int64_t past = call.past.value_or(call.cache.empty() ? 0 : call.cache[0].size(0));
  // Queries are the first E columns of `from`, keys and values the last 2K of `kept`.
  Tensor from, kept;
  if (!call.memory.defined() && !call.projected.defined()) {
    const Tensor bias = in_proj_bias.defined() ? Tensor(in_proj_bias) : Tensor();
    from = linear(x, in_proj_weight, bias, where);
    if (options_.rotary) from = rotated(from, options_.num_heads + options_.kv_heads, past, where);
    kept = from;
  } else {
    from = in_proj(x, 0, e, past, where);
    kept = call.projected.defined() ? call.projected : keys_and_values(call.memory, past, where);
  }
  if (call.past) {
    kept = written_behind(call.cache, past, last_columns(kept, k), where);
  } else if (past > 0) {
    kept = concat({last_columns(call.cache[0], k), last_columns(kept, k)}, 0);
  }
  const std::int64_t width = kept.size(2);
  const AttentionOutput result = unroll::attention({from, 0, e}, {kept, width - 2 * k, k},
                                                   {kept, width - k, k}, options_.num_heads,
                                                   {.causal = call.causal,
                                                    .window = call.window,
                                                    .lengths = call.lengths,
                                                    .mask = call.mask,
                                                    .dropout = training() ? options_.dropout : 0.0,
                                                    .generator = &generator_,
                                                    .need_weights = call.need_weights},
                                                   where);
  Tensor output = out_proj(result.output, where);
  if (options_.batch_first) output = transpose(output, 0, 1);
  if (call.past) return {output, result.weights, call.cache};
  // While training, what hardly anybody reads is not worth a copy.
  return {output, result.weights, {training() ? kept : last_columns(kept, k)}};
}

Output MultiHeadAttention::step(const Tensor& x, const State& cache, const StreamPlace& place,
                                Where where) const {
  if (training() && options_.dropout > 0) fail_stream_draws("MultiHeadAttention", where);
  if (options_.kv_heads != options_.num_heads)
    fail("MultiHeadAttention",
         fmt::format("a stream's step with {} heads of keys and values for {}", options_.kv_heads,
                     options_.num_heads),
         where, "Leave kv_heads at 0, or call it on sequences with {.cache}");
  if (options_.rotary != place.angles.defined() || cache.size() != 1)
    fail("MultiHeadAttention",
         fmt::format("a step with {} caches, {} angles", cache.size(),
                     place.angles.defined() ? "with" : "without"),
         where, "It takes one cache, and angles where it is rotary");
  const Tensor qkv =
      linear(x, in_proj_weight, in_proj_bias.defined() ? Tensor(in_proj_bias) : Tensor(), where);
  AttentionStepOutput result = attention_step(qkv, cache[0], place.position,
                                              {.heads = options_.num_heads,
                                               .sinks = place.sinks,
                                               .angles = place.angles,
                                               .sink_angles = place.sink_angles},
                                              where);
  return {out_proj(result.output, where), {std::move(result.cache)}};
}

std::string MultiHeadAttention::describe() const {
  const bool grouped = options_.kv_heads != options_.num_heads;
  return fmt::format("MultiHeadAttention({}, {} heads{}{})", options_.embed_dim, options_.num_heads,
                     grouped ? fmt::format(", {} of keys and values", options_.kv_heads) : "",
                     options_.rotary ? ", rotary" : "");
}

}  // namespace unroll
