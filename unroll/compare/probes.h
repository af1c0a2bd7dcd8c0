#pragma once

#include <unroll/train/sequence_model.h>

#include <functional>
#include <string>
#include <vector>

namespace unroll {

/// Reports how much of a probe is done, 0 to 1.
using OnProgress = std::function<void(double)>;

// --- Gradient flow: how much of a step's past a model can learn from.

/// norms[k] = |d loss_T / d s_(T-k)|. For a recurrent model s_t is the whole state (h, or h and c,
/// of all layers) that enters step t; for a Transformer it is the vector of step t that enters its
/// first layer. T - k runs from the last step down to the second (to the first for a Transformer,
/// whose first vector is an input like the others).
struct GradientFlow {
  std::vector<double> norms;
};

/// x [T, B] or [T, B, F]; loss takes the last output [B, O] to one element.
GradientFlow gradient_flow(SequenceModel& model, const Tensor& x,
                           const std::function<Tensor(const Tensor& last)>& loss);

/// The same of h' = W h + x with W = radius times an orthogonal matrix: its curve is radius^k,
/// which shows that what is measured is what theory says (Pascanu et al., 2013).
GradientFlow linear_gradient_flow(double radius, std::int64_t steps, std::int64_t size,
                                  Generator& generator);

// --- Scaling: what a training step costs by the length of the sequence.

struct ScalingPoint {
  std::int64_t length = 0;
  double seconds = 0;      ///< median of a forward, backward and optimizer step
  std::int64_t bytes = 0;  ///< the most that was live, counted
};
struct Scaling {
  std::vector<ScalingPoint> points;
  double time_exponent = 0;  ///< seconds ~ length^exponent over the longer half
  double memory_exponent = 0;
};
Scaling measure_scaling(const ModelConfig& config, std::span<const std::int64_t> lengths,
                        std::int64_t batch, double seconds_a_point, Generator& generator);

/// The slope of log y over log x, by least squares.
double fitted_exponent(std::span<const double> x, std::span<const double> y);

// --- Streaming: what one more step costs.

struct StreamingPoint {
  std::int64_t position = 0;  ///< steps in the past, this one included
  double microseconds = 0;    ///< median of one step, batch 1
  std::int64_t state_bytes = 0;
};
std::vector<StreamingPoint> measure_streaming(SequenceModel& model, const ModelConfig& config,
                                              std::span<const std::int64_t> positions,
                                              Generator& generator);

// --- The adding problem, the long-range task (tasks.h) that every comparison measures.

struct AddingResult {
  std::int64_t length = 0;
  std::int64_t steps = 0;
  double mse = 0;  ///< on fresh sequences
  std::vector<std::pair<std::int64_t, double>> curve =
      {};  ///< step, mean training error since the last
};
/// Throws Error where it is interrupted.
AddingResult train_adding(ModelConfig config, std::int64_t length, std::int64_t steps,
                          std::int64_t batch, double learning_rate, Generator& generator,
                          const OnProgress& progress = {});

}  // namespace unroll
