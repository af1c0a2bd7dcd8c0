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
          .kv_heads = o.kv_heads,
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

}  // namespace

TransformerLayer::TransformerLayer(const TransformerOptions& o, GeneratorRef g)
    : self_attn(attention_options(o, o.rotary), g),
      linear1({.in_features = o.d_model, .out_features = width(o), .bias = o.bias}, g),
      linear2({.in_features = width(o), .out_features = o.d_model, .bias = o.bias}, g),
      linear3(gate(o, g)),
      norm1({.size = o.d_model, .bias = o.bias}),
      norm2({.size = o.d_model, .bias = o.bias}),
      dropout_(o.dropout, g),
      dropout1_(o.dropout, g),
      dropout2_(o.dropout, g),
      options_(o) {
  add("self_attn", self_attn);
  add("linear1", linear1);
  add("linear2", linear2);
  if (linear3) add("linear3", *linear3);
  add("norm1", norm1);
  add("norm2", norm2);
  if (o.dropout == 0) return;
  add("dropout", dropout_);
  add("dropout1", dropout1_);
  add("dropout2", dropout2_);
}

Tensor ResidualStream::sum() const { return pending.defined() ? x + pending : x; }

template <class Part>
void TransformerLayer::residual(ResidualStream& stream, LayerNorm& norm, const Part& part,
                                Where where) const {
  if (!options_.norm_first) {
    const Tensor x = stream.sum();
    stream = {norm(x, part(x), where).normed};
  } else if (stream.pending.defined()) {
    ResidualNorm both = norm(stream.x, stream.pending, where);
    stream = {std::move(both.sum), part(both.normed)};
  } else {
    stream.pending = part(norm(stream.x, where));
  }
}

void TransformerLayer::attend(ResidualStream& stream, const TransformerCall& call, State& cache,
                              Where where) {
  const auto attention = [&](const Tensor& x) {
    if (call.place) {
      Output attended = self_attn.step(x, call.cache, *call.place, where);
      cache = std::move(attended.state);
      return dropout1_(attended.output);
    }
    MultiHeadAttentionOutput attended = self_attn(x,
                                                  {.causal = call.causal,
                                                   .window = call.window,
                                                   .lengths = call.lengths,
                                                   .cache = call.cache,
                                                   .past = call.past},
                                                  where);
    cache = std::move(attended.cache);
    return dropout1_(attended.output);
  };
  residual(stream, norm1, attention, where);
}

void TransformerLayer::feed_forward(ResidualStream& stream, LayerNorm& norm, Dropout& last,
                                    Where where) {
  const auto narrow = [&](Activation f, const Tensor& wide) {
    if (dropout_.p() == 0 || !dropout_.training()) return linear2.of_activated(f, wide, where);
    return linear2(dropout_(activate(f, wide, where)), where);
  };
  const auto network = [&](const Tensor& x) {
    const Tensor wide = linear1(x, where);
    switch (options_.activation) {
      case FeedForward::relu:
        return narrow(Activation::relu, wide);
      case FeedForward::gelu:
        return narrow(Activation::gelu, wide);
      case FeedForward::swiglu:
        break;
    }
    const Tensor gated = pointwise(
        "swiglu", [](auto a, auto b) { return silu(a) * b; }, wide, (*linear3)(x, where));
    return linear2(dropout_(gated), where);
  };
  residual(
      stream, norm, [&](const Tensor& x) { return last(network(x)); }, where);
}

State TransformerEncoderLayer::run(ResidualStream& x, const TransformerCall& call, Where where) {
  State cache;
  attend(x, call, cache, where);
  feed_forward(x, norm2, dropout2_, where);
  return cache;
}

Output TransformerEncoderLayer::operator()(const Tensor& x, const TransformerCall& call,
                                           Where where) {
  ResidualStream stream{x};
  State cache = run(stream, call, where);
  return {stream.sum(), std::move(cache)};
}

TransformerDecoderLayer::TransformerDecoderLayer(const TransformerOptions& o, GeneratorRef g)
    : TransformerLayer(o, g),
      multihead_attn(attention_options(o, false), g),
      norm3({.size = o.d_model, .bias = o.bias}),
      dropout3_(o.dropout, g) {
  add("multihead_attn", multihead_attn);
  add("norm3", norm3);
  if (o.dropout > 0) add("dropout3", dropout3_);
}

State TransformerDecoderLayer::project(const Tensor& memory, Where where) const {
  return {multihead_attn.keys_and_values(memory, 0, where)};
}

State TransformerDecoderLayer::run(ResidualStream& x, const TransformerCall& call, Where where) {
  if (!call.memory.defined() && call.projected.size() != 1)
    fail("TransformerDecoderLayer", "needs {.memory = ...}, what the encoder gave", where,
         "Or {.projected = ...}, what project() made of it");
  if (call.memory.defined() && !call.projected.empty())
    fail("TransformerDecoderLayer", "has {.memory} and {.projected}, which of them is meant?",
         where, "Give one: project() has put into {.projected} all that is needed of the memory");
  const auto cross = [&](const Tensor& query) {
    const Tensor projected = call.projected.empty() ? Tensor() : call.projected[0];
    return dropout2_(
        multihead_attn(
            query, {.memory = call.memory, .projected = projected, .lengths = call.memory_lengths},
            where)
            .output);
  };
  State cache;
  attend(x, call, cache, where);
  residual(x, norm2, cross, where);
  feed_forward(x, norm3, dropout3_, where);
  return cache;
}

Output TransformerDecoderLayer::operator()(const Tensor& x, const TransformerCall& call,
                                           Where where) {
  ResidualStream stream{x};
  State cache = run(stream, call, where);
  return {stream.sum(), std::move(cache)};
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
  if (!call.projected.empty() && call.projected.size() != layers_.size())
    fail("TransformerStack",
         fmt::format("a projected memory of {} tensors for {} layers", call.projected.size(),
                     layers_.size()),
         where, "It is what the stack's project() made of the encoder's output");
  TransformerCall one = call;
  if (batch_first_ && call.memory.defined()) one.memory = transpose(call.memory, 0, 1);
  ResidualStream stream{batch_first_ ? transpose(input, 0, 1) : input};
  Output result;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!call.cache.empty()) one.cache = {call.cache[i]};
    if (!call.projected.empty()) one.projected = {call.projected[i]};
    for (Tensor& tensor : layers_[i]->run(stream, one, where))
      result.state.push_back(std::move(tensor));
  }
  if (norm && stream.pending.defined()) {
    result.output = (*norm)(stream.x, stream.pending, where).normed;
  } else {
    result.output = norm ? (*norm)(stream.x, where) : stream.sum();
  }
  if (batch_first_) result.output = transpose(result.output, 0, 1);
  return result;
}

template <class Layer>
State TransformerStack<Layer>::project(
    const Tensor& memory, Where where) const requires std::same_as<Layer, TransformerDecoderLayer> {
  const Tensor x = batch_first_ ? transpose(memory, 0, 1) : memory;
  State all;
  for (const auto& layer : layers_)
    for (Tensor& one : layer->project(x, where)) all.push_back(std::move(one));
  return all;
}

template class TransformerStack<TransformerEncoderLayer>;
template class TransformerStack<TransformerDecoderLayer>;

}  // namespace unroll
