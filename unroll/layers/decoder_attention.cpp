#include <fmt/format.h>
#include <unroll/layers/decoder_attention.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/softmax.h>

namespace unroll {
namespace {

constexpr AttentionScore scores[] = {AttentionScore::additive, AttentionScore::general,
                                     AttentionScore::dot};

DecoderAttentionOptions checked(DecoderAttentionOptions o) {
  if (o.attention_size == 0) o.attention_size = o.query_size;
  if (o.query_size < 1 || o.memory_size < 1 || o.attention_size < 1)
    fail("DecoderAttention", fmt::format("sizes must be positive, got query {}, memory {}",
                                         o.query_size, o.memory_size));
  if (o.score == AttentionScore::dot && o.query_size != o.memory_size)
    fail("DecoderAttention",
         fmt::format("the dot score needs query and memory of one size, got {} and {}",
                     o.query_size, o.memory_size),
         "Take the general score, which has a matrix between them");
  return o;
}

LinearOptions key_options(const DecoderAttentionOptions& o) {
  return {.in_features = o.memory_size,
          .out_features = o.score == AttentionScore::general ? o.query_size : o.attention_size,
          .bias = false};
}

}  // namespace

const char* to_string(AttentionScore score) {
  switch (score) {
    case AttentionScore::additive:
      return "additive";
    case AttentionScore::general:
      return "general";
    case AttentionScore::dot:
      return "dot";
  }
  return "?";
}

AttentionScore attention_score(const std::string& name) {
  std::string known;
  for (const AttentionScore score : scores) {
    if (name == to_string(score)) return score;
    known += (known.empty() ? "" : ", ") + std::string(to_string(score));
  }
  fail("attention", fmt::format("no score is named '{}'", name), "Known: " + known);
}

DecoderAttention::DecoderAttention(const DecoderAttentionOptions& options, GeneratorRef generator)
    : options_(checked(options)),
      query_({.in_features = options_.query_size,
              .out_features = options_.attention_size,
              .bias = false},
             generator),
      key_(key_options(options_), generator),
      energy_({.in_features = options_.attention_size, .out_features = 1, .bias = false},
              generator) {
  const bool additive = options_.score == AttentionScore::additive;
  if (additive) add("query", query_);
  if (options_.score != AttentionScore::dot) add("key", key_);
  if (additive) add("energy", energy_);
}

Tensor DecoderAttention::keys(const Tensor& memory, Where where) const {
  if (memory.rank() != 3 || memory.size(2) != options_.memory_size)
    throw ShapeError(error_message("DecoderAttention",
                                   fmt::format("the memory is {}, expected [B, S, {}]",
                                               to_string(memory.shape()), options_.memory_size),
                                   &where, ""));
  return options_.score == AttentionScore::dot ? memory : key_(memory, where);
}

DecoderAttention::Attended DecoderAttention::operator()(const Tensor& query, const Tensor& keys,
                                                        const Tensor& memory, const Tensor& mask,
                                                        Where where) const {
  const std::int64_t batch = query.size(0), steps = memory.size(1);
  Tensor scores;  // [B, 1, S]
  if (options_.score == AttentionScore::additive) {
    const Tensor q = unsqueeze(query_(query, where), 1);
    const Tensor hidden = pointwise(
        "additive_attention", [](auto key, auto q) { return tanh(key + q); }, keys, q);
    scores = reshape(energy_(hidden, where), {batch, 1, steps});
  } else {
    scores = matmul(unsqueeze(query, 1), keys, {.transpose_b = true}, where);
  }
  const Tensor weights = softmax(scores, SoftmaxOptions{.mask = mask}, where);
  return {reshape(matmul(weights, memory, {}, where), {batch, memory.size(2)}),
          reshape(weights, {batch, steps})};
}

std::string DecoderAttention::describe() const {
  return fmt::format("DecoderAttention({}, query {}, memory {})", to_string(options_.score),
                     options_.query_size, options_.memory_size);
}

}  // namespace unroll
