#pragma once

#include <unroll/layers/attention.h>
#include <unroll/layers/norm.h>

#include <concepts>
#include <memory>
#include <optional>

namespace unroll {

enum class FeedForward : std::uint8_t { relu, gelu, swiglu };

struct TransformerOptions {
  std::int64_t d_model = 0;
  std::int64_t nhead = 1;
  std::int64_t kv_heads = 0;  ///< of every attention; 0: nhead. See MultiHeadAttentionOptions
  std::int64_t dim_feedforward = 0;  ///< 0: 4 d_model
  int num_layers = 1;                ///< of a stack
  double dropout = 0;
  FeedForward activation = FeedForward::relu;
  bool norm_first = false;  ///< pre-norm (Xiong et al., 2020); a stack then ends with a norm
  bool bias = true;
  bool rotary = false;
  bool batch_first = false;
};

struct TransformerCall {
  bool causal = false;
  std::int64_t window = 0;  ///< see AttentionCall
  Tensor lengths = {};      ///< [B] i64 of x
  Tensor memory = {};       ///< decoder: what the encoder gave
  /// Decoder, in place of memory: what project() made of it.
  State projected = {};
  Tensor memory_lengths = {};             ///< [B] i64 of memory
  State cache = {};                       ///< the state behind earlier steps, for streaming
  std::optional<std::int64_t> past = {};  ///< rows of the cache in use, see AttentionCall
  /// One step of an encoder: x [B, d_model], cache [B, R, 2 d_model] for each layer.
  std::optional<StreamPlace> place = {};
};

/// What flows past the parts of a Transformer: x, and what the last part still has to add to it,
/// which the next norm does in its own pass; undefined: nothing.
struct ResidualStream {
  Tensor x;
  Tensor pending = {};
  Tensor sum() const;
};

/// What encoder and decoder layers share: self-attention, the feed-forward part, and the residual
/// and norm around either. PyTorch's names: self_attn, linear1, linear2, norm1, norm2; SwiGLU adds
/// linear3, the gate's partner: linear2(silu(linear1(x)) linear3(x)) (Shazeer, 2020).
class TransformerLayer : public Module {
 public:
  MultiHeadAttention self_attn;
  Linear linear1, linear2;
  std::unique_ptr<Linear> linear3;
  LayerNorm norm1, norm2;

 protected:
  TransformerLayer(const TransformerOptions& options, GeneratorRef generator);
  /// x + part(x), with the norm before the part or behind the sum.
  template <class Part>
  void residual(ResidualStream& x, LayerNorm& norm, const Part& part, Where where) const;
  /// Self-attention within its residual; `cache` becomes the keys and values of all steps so far.
  void attend(ResidualStream& x, const TransformerCall& call, State& cache, Where where);
  /// The feed-forward part within its residual.
  void feed_forward(ResidualStream& x, LayerNorm& norm, Dropout& last, Where where);
  Dropout dropout_, dropout1_, dropout2_;

 private:
  TransformerOptions options_;
};

/// Self-attention, then the feed-forward part (Vaswani et al., 2017).
class TransformerEncoderLayer : public TransformerLayer {
 public:
  explicit TransformerEncoderLayer(const TransformerOptions& options, GeneratorRef generator = {})
      : TransformerLayer(options, generator) {}
  /// x [T, B, d_model] -> the same shape; the state is the keys and values of all steps so far
  /// (MultiHeadAttentionOutput).
  Output operator()(const Tensor& x, const TransformerCall& call = {},
                    Where where = Where::current());
  /// The same on a stream, in place, for stacks.
  State run(ResidualStream& x, const TransformerCall& call, Where where);
  std::string describe() const override { return "TransformerEncoderLayer"; }
};

/// An encoder layer with cross-attention to `memory` in its middle: multihead_attn behind norm2,
/// the feed-forward part behind norm3.
class TransformerDecoderLayer : public TransformerLayer {
 public:
  explicit TransformerDecoderLayer(const TransformerOptions& options, GeneratorRef generator = {});
  /// The keys and values of a memory [T_m, B, d_model]: {[T_m, B, 2 d_model]}, for
  /// TransformerCall::projected. Step by step they are made once in place of at every step.
  State project(const Tensor& memory, Where where = Where::current()) const;
  /// x [T, B, d_model]; call.memory [T_m, B, d_model] or call.projected is needed. Causal where
  /// call.causal.
  Output operator()(const Tensor& x, const TransformerCall& call, Where where = Where::current());
  State run(ResidualStream& x, const TransformerCall& call, Where where);
  std::string describe() const override { return "TransformerDecoderLayer"; }

  MultiHeadAttention multihead_attn;
  LayerNorm norm3;

 private:
  Dropout dropout3_;
};

/// num_layers of a layer: layers.0, layers.1, ..., and behind pre-norm layers a final norm.
template <class Layer>
class TransformerStack : public Module {
 public:
  explicit TransformerStack(const TransformerOptions& options, GeneratorRef generator = {});
  /// As the layer; the state is that of layer 0, of layer 1, ...
  Output operator()(const Tensor& x, const TransformerCall& call = {},
                    Where where = Where::current());
  /// A decoder's memory as its layers' project() give it, layer 0, layer 1, ...
  State project(const Tensor& memory, Where where = Where::current())
      const requires std::same_as<Layer, TransformerDecoderLayer>;
  std::string describe() const override { return "TransformerStack"; }
  Layer& layer(int i) { return *layers_[static_cast<std::size_t>(i)]; }
  std::unique_ptr<LayerNorm> norm;

 private:
  bool batch_first_;
  std::vector<std::unique_ptr<Layer>> layers_;
};

using TransformerEncoder = TransformerStack<TransformerEncoderLayer>;
using TransformerDecoder = TransformerStack<TransformerDecoderLayer>;

}  // namespace unroll
