#pragma once

#include <unroll/layers/module.h>
#include <unroll/layers/regularization.h>
#include <unroll/layers/step_form.h>
#include <unroll/ops/scan.h>

#include <functional>
#include <memory>
#include <vector>

namespace unroll {

/// One layer of a model taken apart. A layer whose state has one size is run by `step`; a
/// Transformer's has `run` and `attention` instead.
struct ModelLayer {
  const RecurrentCell* cell = nullptr;  ///< whose initial_state() and gates() these are
  std::function<Output(const Tensor& x, const State& state)> step = {};  ///< x [B, D]
  std::function<Tensor(const Tensor& x)> run = {};        ///< all steps, [T, B, D] -> [T, B, D]
  std::function<Tensor(const Tensor& x)> attention = {};  ///< its weights, [B, heads, T, T]
};

/// model(x) is head(layer n (... layer 1 (enter(embed(x))))). Valid while the model lives.
struct ModelParts {
  std::function<Tensor(const Tensor& embedded)> enter;  ///< [T, B, D] -> what enters the layers
  std::vector<ModelLayer> layers;
  std::function<Tensor(const Tensor& h)> head;  ///< [T, B, D] -> [T, B, O]
};

/// A causal model of sequences: what the training loop, streaming and the comparison ask of any
/// architecture. The output at step t depends on inputs up to t.
class SequenceModel : public Module {
 public:
  /// tokens [T, B] i64 or features [T, B, F] -> vectors [T, B, D].
  virtual Tensor embed(const Tensor& x) = 0;
  /// Vectors [T, B, D] and the state behind earlier steps (empty at the beginning) -> outputs
  /// [T, B, O] and the state behind these. A Transformer's state is its cache of keys and values.
  virtual Output run(const Tensor& embedded, const State& state) = 0;
  Output operator()(const Tensor& x, const State& state = {}) { return run(embed(x), state); }

  /// Does the state have the same size however long the sequence is?
  virtual bool constant_state() const = 0;
  /// The model taken apart, for looking inside (compare/inside.h). Throws Error for a model that
  /// does not say how.
  virtual ModelParts parts();

  /// One step, for a Stream: tokens [B] or features [B, F] -> outputs [B, O]. Its state, B leading,
  /// need not be run()'s. Default: throws Error, as do options that the model has no use for.
  virtual StepForm step_form(const StreamOptions& options = {});
};

enum class ModelKind : std::uint8_t { rnn, lstm, gru, mingru, minlstm, mamba, rwkv, transformer };

const char* to_string(ModelKind kind);
/// Throws Error for an unknown name, listing the known ones.
ModelKind model_kind(const std::string& name);
/// Is it a stack of residual blocks on vectors of `hidden` numbers? A Transformer is, and all the
/// later recurrent models; RNN, LSTM and GRU are not.
bool has_blocks(ModelKind kind);

enum class Positions : std::uint8_t { learned, rotary, sinusoidal };

/// What a model is built from, and what config.json holds.
struct ModelConfig {
  ModelKind kind = ModelKind::lstm;
  std::int64_t vocabulary = 0;  ///< tokens; 0: real inputs of `features` columns
  std::int64_t features = 0;
  std::int64_t outputs = 0;  ///< 0: as many as the vocabulary
  std::int64_t embedding = 128;
  std::int64_t hidden = 224;  ///< size of h; of models of blocks: d_model (embedding is unused)
  int layers = 2;
  std::int64_t heads = 4;     ///< Transformer, RWKV
  std::int64_t context = 64;  ///< Transformer with learned positions: the longest sequence
  Positions positions = Positions::rotary;
  double dropout = 0;
  bool bias = true;
  bool tied = false;                   ///< the head's weight is the embedding
  bool layer_norm = false;             ///< LSTM, see LSTMCellOptions
  Regularization regularization = {};  ///< RNN, LSTM, GRU
  std::int64_t window = 0;             ///< Transformer: the last steps that each one sees; 0: all
};

/// Numbers that are trained, without making the model; a double, since sizes may be anything.
double parameter_count(const ModelConfig& config);

/// Throws Error for sizes that make no model, or one that no machine holds.
std::unique_ptr<SequenceModel> make_model(const ModelConfig& config, GeneratorRef generator = {});

/// The config whose `hidden` makes the model's parameters come closest to `parameters`; for a
/// Transformer hidden is a multiple of 2 heads, for RWKV of its heads. Throws Error where even the
/// smallest is too large.
ModelConfig sized(ModelConfig config, std::int64_t parameters);

}  // namespace unroll
