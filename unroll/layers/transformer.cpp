#include <fmt/format.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/pointwise.h>

namespace unroll {
namespace {

// The parts of a layer work time-major; the stack turns batch_first around once.
MultiHeadAttentionOptions attention_options(const TransformerOptions& o, bool rotary) {
  return {.embed_dim = o.d_model,
          .num_heads = o.nhead,
          .dropout = o.dropout,
          .bias = o.bias,
          .rotary = rotary,
          .batch_first = o.batch_first};
}

std::int64_t width(const TransformerOptions& o) {
  return o.dim_feedforward > 0 ? o.dim_feedforward : 4 * o.d_model;
}

std::unique_ptr<Linear> gate(const TransformerOptions& o, GeneratorRef& generator) {
  if (o.activation != FeedForward::swiglu) return nullptr;
  return std::make_unique<Linear>(
      LinearOptions{.in_features = o.d_model, .out_features = width(o), .bias = o.bias}, generator);
}

Tensor feed(const Tensor& x, FeedForward activation, Linear& linear1, Linear& linear2,
            Linear* linear3, Dropout& dropout, Where where) {
  Tensor inner = linear1(x, where);
  switch (activation) {
    case FeedForward::relu:
      inner = relu(inner);
      break;
    case FeedForward::gelu:
      inner = gelu(inner);
      break;
    case FeedForward::swiglu:
      inner = pointwise(
          "swiglu", [](auto a, auto b) { return silu(a) * b; }, inner, (*linear3)(x, where));
      break;
  }
  return linear2(dropout(inner), where);
}

}  // namespace

TransformerEncoderLayer::TransformerEncoderLayer(const TransformerOptions& o, GeneratorRef g)
    : self_attn(attention_options(o, o.rotary), g),
      linear1({.in_features = o.d_model, .out_features = width(o), .bias = o.bias}, g),
      linear2({.in_features = width(o), .out_features = o.d_model, .bias = o.bias}, g),
      linear3(gate(o, g)),
      norm1({.size = o.d_model, .bias = o.bias}),
      norm2({.size = o.d_model, .bias = o.bias}),
      options_(o),
      dropout_(o.dropout, g),
      dropout1_(o.dropout, g),
      dropout2_(o.dropout, g) {
  add("self_attn", self_attn);
  add("linear1", linear1);
  add("linear2", linear2);
  if (linear3) add("linear3", *linear3);
  add("norm1", norm1);
  add("norm2", norm2);
  for (auto& [name, part] : {std::pair<const char*, Dropout*>{"dropout", &dropout_},
                             {"dropout1", &dropout1_},
                             {"dropout2", &dropout2_}})
    if (o.dropout > 0) add(name, *part);
}

Tensor TransformerEncoderLayer::feed_forward(const Tensor& x, Where where) {
  return dropout2_(feed(x, options_.activation, linear1, linear2, linear3.get(), dropout_, where));
}

Output TransformerEncoderLayer::operator()(const Tensor& input, const TransformerCall& call,
                                           Where where) {
  const auto attend = [&](const Tensor& x) {
    return self_attn(x, {.causal = call.causal, .lengths = call.lengths, .cache = call.cache},
                     where);
  };
  Tensor x = input;
  if (options_.norm_first) {
    const MultiHeadAttentionOutput attended = attend(norm1(x));
    x = x + dropout1_(attended.output);
    return {x + feed_forward(norm2(x), where), attended.cache};
  }
  const MultiHeadAttentionOutput attended = attend(x);
  x = norm1(x + dropout1_(attended.output));
  return {norm2(x + feed_forward(x, where)), attended.cache};
}

TransformerDecoderLayer::TransformerDecoderLayer(const TransformerOptions& o, GeneratorRef g)
    : self_attn(attention_options(o, o.rotary), g),
      multihead_attn(attention_options(o, false), g),
      linear1({.in_features = o.d_model, .out_features = width(o), .bias = o.bias}, g),
      linear2({.in_features = width(o), .out_features = o.d_model, .bias = o.bias}, g),
      linear3(gate(o, g)),
      norm1({.size = o.d_model, .bias = o.bias}),
      norm2({.size = o.d_model, .bias = o.bias}),
      norm3({.size = o.d_model, .bias = o.bias}),
      options_(o),
      dropout_(o.dropout, g),
      dropout1_(o.dropout, g),
      dropout2_(o.dropout, g),
      dropout3_(o.dropout, g) {
  add("self_attn", self_attn);
  add("multihead_attn", multihead_attn);
  add("linear1", linear1);
  add("linear2", linear2);
  if (linear3) add("linear3", *linear3);
  add("norm1", norm1);
  add("norm2", norm2);
  add("norm3", norm3);
  for (auto& [name, part] : {std::pair<const char*, Dropout*>{"dropout", &dropout_},
                             {"dropout1", &dropout1_},
                             {"dropout2", &dropout2_},
                             {"dropout3", &dropout3_}})
    if (o.dropout > 0) add(name, *part);
}

Tensor TransformerDecoderLayer::feed_forward(const Tensor& x, Where where) {
  return dropout3_(feed(x, options_.activation, linear1, linear2, linear3.get(), dropout_, where));
}

Output TransformerDecoderLayer::operator()(const Tensor& input, const TransformerCall& call,
                                           Where where) {
  if (!call.memory.defined())
    fail("TransformerDecoderLayer", "needs {.memory = ...}, what the encoder gave", where);
  const auto attend = [&](const Tensor& x) {
    return self_attn(x, {.causal = call.causal, .lengths = call.lengths, .cache = call.cache},
                     where);
  };
  const auto cross = [&](const Tensor& x) {
    return dropout2_(
        multihead_attn(x, {.memory = call.memory, .lengths = call.memory_lengths}, where).output);
  };
  Tensor x = input;
  if (options_.norm_first) {
    const MultiHeadAttentionOutput attended = attend(norm1(x));
    x = x + dropout1_(attended.output);
    x = x + cross(norm2(x));
    return {x + feed_forward(norm3(x), where), attended.cache};
  }
  const MultiHeadAttentionOutput attended = attend(x);
  x = norm1(x + dropout1_(attended.output));
  x = norm2(x + cross(x));
  return {norm3(x + feed_forward(x, where)), attended.cache};
}

template <class Layer>
TransformerStack<Layer>::TransformerStack(const TransformerOptions& options, GeneratorRef generator)
    : batch_first_(options.batch_first) {
  if (options.num_layers < 1)
    fail("TransformerStack",
         fmt::format("num_layers must be 1 or more, got {}", options.num_layers));
  TransformerOptions inner = options;
  inner.batch_first = false;
  for (int i = 0; i < options.num_layers; ++i) {
    layers_.push_back(std::make_unique<Layer>(inner, generator));
    add(fmt::format("layers.{}", i), *layers_.back());
  }
  if (options.norm_first) {
    norm = std::make_unique<LayerNorm>(NormOptions{.size = options.d_model, .bias = options.bias});
    add("norm", *norm);
  }
}

template <class Layer>
Output TransformerStack<Layer>::operator()(const Tensor& input, const TransformerCall& call,
                                           Where where) {
  if (!call.cache.empty() && call.cache.size() != layers_.size())
    fail("TransformerStack",
         fmt::format("a cache of {} tensors for {} layers", call.cache.size(), layers_.size()),
         where);
  TransformerCall one = call;
  if (batch_first_ && call.memory.defined()) one.memory = transpose(call.memory, 0, 1);
  Output result{batch_first_ ? transpose(input, 0, 1) : input, {}};
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!call.cache.empty()) one.cache = {call.cache[i]};
    Output next = (*layers_[i])(result.output, one, where);
    result.output = std::move(next.output);
    for (Tensor& tensor : next.state) result.state.push_back(std::move(tensor));
  }
  if (norm) result.output = (*norm)(result.output, where);
  if (batch_first_) result.output = transpose(result.output, 0, 1);
  return result;
}

template class TransformerStack<TransformerEncoderLayer>;
template class TransformerStack<TransformerDecoderLayer>;

}  // namespace unroll
