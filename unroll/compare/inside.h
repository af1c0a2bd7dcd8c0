#pragma once

#include <unroll/train/batches.h>
#include <unroll/train/model_dir.h>

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

namespace unroll {

// Looking inside a model that runs along one sequence or a batch of them. The model is put into
// evaluation mode meanwhile. All of them throw Error for a model that has not what is asked for.

// --- Gates

struct GateValues {
  std::string name;    ///< as the cell's gates() have it: i, f, g, o of an LSTM; r, z, n of a GRU
  bool keeps = false;  ///< f, z or a decay: the share of the old state that stays
  Tensor values;       ///< [T, B, H], behind the nonlinearity
};
/// The gates of each layer along x [T, B] or [T, B, F]: of LSTM and GRU, of minGRU (1 - z, h~) and
/// minLSTM (f' = f / (f + i), h~), Mamba's decays exp(dt A) (H = states times channels) and RWKV's
/// w. Throws Error for a model without gates.
std::vector<std::vector<GateValues>> gates_along(SequenceModel& model, const Tensor& x);

/// How many steps each unit remembers: -1 / log of what it keeps in a step, in the geometric mean
/// over steps and batch, since what is left of a value behind some steps is the product of the
/// gates (Tallec, Ollivier, "Can recurrent neural networks warp time?", 2018, section 1). Infinite
/// for a gate that is always 1. kept [T, B, H], as f of an LSTM or z of a GRU.
std::vector<double> memory_horizon(const Tensor& kept);

/// The share of the elements in each of `bins` equal parts of low to high; what lies outside counts
/// in the first or last, and NaN in none.
std::vector<double> histogram(const Tensor& values, double low, double high, std::size_t bins);

// --- Gradients

/// norms[l][t] = |d loss / d h_t^l|, over the batch and its units; l = 0 is what enters the first
/// layer, l = 1 the output of the first layer. In an RNN, LSTM or GRU that output is h itself, and
/// the derivative is the whole one: through the layers above and through later steps.
struct LayerFlow {
  std::vector<std::vector<double>> norms;
};
/// loss takes all outputs [T, B, O] to one element.
LayerFlow layer_gradient_flow(SequenceModel& model, const Tensor& x,
                              const std::function<Tensor(const Tensor& outputs)>& loss);

// --- The Jacobian of a step, d s_t / d s_(t-1), for models whose state has one size.

/// The largest |eigenvalue| of a square matrix [n, n], as |A^k|^(1/k) with k = 2^16 (Gelfand),
/// which repeated squaring reaches in 16 products: complex pairs and defective matrices included.
double spectral_radius(const Tensor& matrix);
/// The largest singular value, by power iteration with A' A.
double spectral_norm(const Tensor& matrix);

struct StepJacobian {
  std::int64_t step = 0;  ///< t, from 0
  double radius = 0;      ///< largest |eigenvalue|
  double norm = 0;        ///< largest singular value; NaN where the state is larger than `exact`
};
struct JacobianOptions {
  std::int64_t count = 32;    ///< steps that are looked at, evenly along the sequence
  std::int64_t exact = 1024;  ///< numbers of state up to which the whole matrix is made; beyond it
                              ///< the radius comes from power iteration with vector products
  int iterations = 100;       ///< of that
};
/// Of each layer's own state along one sequence x [T, 1] or [T, 1, F]. A layer's step depends on
/// those below it and not on those above: the matrix of the whole model has these as blocks on its
/// diagonal, so that its spectral radius is the largest of theirs.
std::vector<std::vector<StepJacobian>> step_jacobians(SequenceModel& model, const Tensor& x,
                                                      Generator& generator,
                                                      const JacobianOptions& options = {});

/// How a gradient grows on its way back through the states of all layers together.
struct StateGrowth {
  /// log |u J_T J_(T-1) ... J_(T-k+1)| for k = 1, 2, ... of a random u of length 1.
  std::vector<double> log_norms;
  /// The largest Lyapunov exponent, per step: the slope of log_norms over all but the first fifth,
  /// in which u turns to the direction that grows the fastest.
  double exponent = 0;
};
/// Along x [T, 1] or [T, 1, F], T at least 5.
StateGrowth state_growth(SequenceModel& model, const Tensor& x, Generator& generator);

// --- Attention

/// Of each layer of a Transformer, the weights [B, heads, T, T]: row t says how much step t takes
/// from each step up to it.
std::vector<Tensor> attention_maps(SequenceModel& model, const Tensor& x);

// --- Effective context

struct ContextPoint {
  std::int64_t context = 0;  ///< inputs that the model is given, the latest ones
  double loss = 0;           ///< at the step behind them
};
/// The loss of the last output of x [T, B] or [T, B, F] where the model begins just k steps before
/// it knowing nothing else, for each k of contexts (1 to T). loss takes the last output [B, O] to
/// one element.
std::vector<ContextPoint> effective_context(SequenceModel& model, const Tensor& x,
                                            std::span<const std::int64_t> contexts,
                                            const std::function<Tensor(const Tensor& last)>& loss);

// --- All of it

struct InspectOptions {
  std::int64_t steps = 96;     ///< of the sequence that is looked at
  std::int64_t batch = 8;      ///< sequences whose gradients are added up
  std::int64_t context = 128;  ///< the longest context; doubled from 1 up to it
  std::int64_t windows = 512;  ///< places whose loss is averaged by context
  std::int64_t units = 128;    ///< of a layer whose gates are written step by step
  std::uint64_t seed = 1;
  JacobianOptions jacobian = {};
};

/// What a model reads while it is looked at.
struct InspectSource {
  Tensor x;                               ///< one sequence [T, 1] or [T, 1, F], T at least 5
  std::vector<std::string> symbols = {};  ///< its T symbols; none for real inputs
  /// Sequences from anywhere, time-major.
  std::function<Batch(std::int64_t batch, std::int64_t steps, Generator&)> draw;
  /// Of the outputs of all steps [T, B, O] or of one [B, O], and the same part of Batch::y.
  std::function<Tensor(const Tensor& output, const Tensor& y)> loss;
};
/// Windows of a text in the model's tokens, and its beginning. `tokens` must outlive the source.
/// Throws DataError for a text that is too short.
InspectSource inspect_source(const Vocabulary& vocabulary, std::span<const std::int64_t> tokens,
                             std::int64_t steps);

/// Steps that the model reads at the most: the context of learned positions; 0: any number.
std::int64_t longest_sequence(const ModelConfig& config);

/// What of the above the model has, as inside.json holds it (docs/inside.md).
nlohmann::json inspect(SequenceModel& model, const ModelConfig& config, const InspectSource& source,
                       const InspectOptions& options = {});
/// The same of a language model and a text. Throws DataError for a text that is too short.
nlohmann::json inspect(const LanguageModel& model, std::span<const std::int64_t> tokens,
                       const InspectOptions& options = {});

/// Throws DataError where `inside` lacks what docs/inside.md promises.
void check_inside(const nlohmann::json& inside);

/// A page that needs nothing else: pictures of all that `inside` holds. Throws DataError where it
/// is not an inside file of this version.
std::string inside_report(const nlohmann::json& inside);

}  // namespace unroll
