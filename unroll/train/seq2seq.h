#pragma once

#include <unroll/layers/decoder_attention.h>
#include <unroll/ops/scan.h>
#include <unroll/train/sequence_model.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace unroll {

/// Where the decoding of a batch stands. A value: a search may keep any number of them and go on
/// from any one.
struct Decoding {
  /// What the decoder needs of the encoder's output, its keys and values projected: [S, B, D] or
  /// [B, S, D] tensors. It is made once a source and stays the same from step to step.
  std::vector<Tensor> memory = {};
  Tensor lengths = {};                 ///< [B] i64 of the sources; undefined: all fill S
  State state = {};                    ///< what the decoder carries
  std::optional<ModelKind> kind = {};  ///< of the model that made it, and alone goes on from it
};

/// A model of a target sequence given a source sequence (Sutskever, Vinyals, Le, 2014): an encoder
/// that reads the source, and a decoder that gives one symbol after the other.
class Seq2Seq : public Module {
 public:
  /// source [S, B] i64, lengths [B] i64 of its columns (undefined: all fill S) -> where decoding
  /// begins. What stands behind a length does not matter. Throws ShapeError for a source of other
  /// axes, or without a symbol or a sequence.
  virtual Decoding encode(const Tensor& source, const Tensor& lengths = {}) = 0;
  /// Reads tokens [T, B] from `at` on; T = 1 is a step of generation, a whole target (moved by one)
  /// is teacher forcing. Gives logits [T, B, V] of the symbol behind each token, and the state
  /// behind the last. Throws ShapeError for tokens of other axes or another batch, Error for a
  /// Decoding that another model made.
  virtual Output decode(const Tensor& tokens, const Decoding& at) = 0;
  /// The batch's axis in Decoding's tensors.
  virtual int batch_axis() const = 0;

  /// tokens [B] -> logits [B, V]; `at` moves on. Copies of it that were made before do not. Throws
  /// as decode() does, and `at` is then what it was.
  virtual Tensor step(const Tensor& tokens, Decoding& at);
  /// Sequences `indices` of the batch, one or more, any number of times each; constants.
  Decoding rows(const Decoding& at, std::span<const std::int64_t> indices) const;
  /// The same where the sequence in every row stays one with that row's source, as when hypotheses
  /// of one sequence change places: what the encoder left is shared, the state alone is copied.
  Decoding reordered(const Decoding& at, std::span<const std::int64_t> indices) const;

 protected:
  /// Throws Error, naming `op`, for a Decoding that is not this model's; gives its batch.
  virtual std::int64_t check(const char* op, const Decoding& at) const = 0;
  /// Sequences `indices` of a state.
  virtual State state_rows(const State& state, std::span<const std::int64_t> indices) const;
};

/// What a Seq2Seq is built from, and what its config.json holds.
struct Seq2SeqConfig {
  ModelKind kind = ModelKind::lstm;
  std::int64_t source_vocabulary = 0;
  std::int64_t target_vocabulary = 0;
  std::int64_t embedding = 128;  ///< recurrent
  std::int64_t hidden = 256;     ///< of the decoder; of the encoder's two directions together
  int layers = 1;                ///< of the encoder, and of the decoder
  std::int64_t heads = 4;        ///< Transformer
  AttentionScore attention = AttentionScore::additive;  ///< recurrent
  double dropout = 0;
};

/// RNN, LSTM, GRU: a bidirectional encoder and a decoder with attention and input feeding (Luong et
/// al., 2015, 3.3): from the symbol before and the attentional vector a before, through the cells,
///
///     c = attention(h, memory),  a = tanh(W [c; h]),  logits = head(a)
///
/// The decoder's layers begin with the last states of the encoder's, both directions side by side.
/// dropout is of embeddings, between the encoder's layers, and of a on its way into the head.
///
/// Transformer: pre-norm encoder and decoder stacks with sinusoidal positions (Vaswani et al.,
/// 2017).
///
/// Throws Error for another kind, and for sizes that make no model.
std::unique_ptr<Seq2Seq> make_seq2seq(const Seq2SeqConfig& config, GeneratorRef generator = {});

/// The kind of that name. Throws Error, naming those there are, for one of which there is no
/// encoder-decoder.
ModelKind seq2seq_kind(const std::string& name);

}  // namespace unroll
