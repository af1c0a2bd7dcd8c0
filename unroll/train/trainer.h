#pragma once

#include <unroll/graph/generator.h>
#include <unroll/optim/noise.h>
#include <unroll/optim/optimizer.h>
#include <unroll/optim/schedule.h>
#include <unroll/train/batches.h>
#include <unroll/train/sequence_model.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace unroll {

/// What is to be learned: where batches come from, and what counts as loss.
struct TrainTask {
  std::function<Batch(Generator&)> next = {};
  /// Outputs [T, B, O] and the batch -> loss, one element.
  std::function<Tensor(const Tensor& output, const Batch& batch)> loss = {};
  /// Loss on what was held out; undefined: no evaluation.
  std::function<double(SequenceModel&)> evaluate = {};
  /// Carry the state from batch to batch, which must then continue each other: truncated
  /// back-propagation through time. `at_start` tells when the next batch begins anew.
  bool carry_state = false;
  /// With carry_state, how many steps back gradients reach, across batches too; 0: through the
  /// batch. See run_stream().
  std::int64_t k2 = 0;
  std::function<bool()> at_start = {};
  /// Called in a resumed run: so many batches were drawn before. For sources that do not follow the
  /// generator.
  std::function<void(std::int64_t batches)> seek = {};
};

/// What else is to be learned: anything that a loss says, of any Module.
struct Objective {
  /// The loss of a step, recorded on the current tape; adds to `tokens` how many were read.
  std::function<Tensor(std::int64_t step, Generator& generator, std::int64_t& tokens)> loss = {};
  /// Loss on what was held out; undefined: no evaluation.
  std::function<double()> evaluate = {};
};

struct TrainOptions {
  std::int64_t steps = 1000;
  double seconds = 0;      ///< stop after so much training time; 0: no bound
  Schedule schedule = {};  ///< of the learning rate by step; empty: the optimizer's own
  double clip_norm = 0;    ///< 0: no clipping
  GradientNoiseOptions gradient_noise = {};  ///< added behind clipping
  /// Of the products of training steps, see Tape::Options; evaluation is always in f32.
  DType precision = DType::f32;
  std::int64_t evaluate_every = 0;
  int patience = 0;             ///< evaluations without a better loss before stopping; 0: never
  std::string log = {};         ///< JSON lines are appended to this file
  std::string checkpoint = {};  ///< written at every evaluation, at the end, and on Ctrl-C
  bool resume = false;          ///< continue from `checkpoint` where it exists
  /// What is trained and on what, by name, as {"text", its hash}. It is kept in the checkpoint;
  /// resuming throws DataError, before anything is written, where the checkpoint's differs.
  std::map<std::string, std::string> identity = {};
  std::string label = "train";  ///< of the progress bar; empty: none
};

struct TrainPoint {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double seconds = 0;  ///< of training, without evaluation
  double train_loss = 0;
  double validation_loss = 0;
};

struct TrainResult {
  std::vector<TrainPoint> curve;  ///< one point an evaluation
  std::int64_t steps = 0;
  std::int64_t tokens = 0;
  double seconds = 0;
  std::int64_t peak_bytes = 0;  ///< the most that was live during a training step
  double best_loss = 0;
  bool interrupted = false;  ///< Ctrl-C
};

/// Trains `model` in place. Each step: a tape, the loss, backward, clipping, the optimizer. Throws
/// Error naming the step where the loss is not finite; the parameters are those before that step.
/// Throws Error, before anything is written, for a precision that the machine does not have.
/// A resumed run gives the same bits as one that was never interrupted.
TrainResult train(SequenceModel& model, Optimizer& optimizer, const TrainTask& task,
                  Generator& generator, const TrainOptions& options);

/// The same for an objective. What it draws, it draws from the generator it is given.
TrainResult train(Module& model, Optimizer& optimizer, const Objective& objective,
                  Generator& generator, const TrainOptions& options);

/// The mean of `loss` over `count` batches that `generator` draws, without training.
double mean_loss(SequenceModel& model, const TrainTask& task, Generator generator, int count);

}  // namespace unroll
