#pragma once

#include <unroll/train/trainer.h>
#include <unroll/train/truncated_bptt.h>

namespace unroll {

/// How far a training run is: what resuming needs besides model, optimizer and generators.
struct TrainProgress {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double seconds = 0;
  double best = 0;
  int since_best = 0;
  double running = 0;       ///< a smoothed loss, for the progress bar
  double interval_sum = 0;  ///< of the losses since the last evaluation
  std::int64_t interval_steps = 0;
  std::int64_t peak_bytes = 0;
  Carried carried;  ///< from batch to batch
  std::vector<TrainPoint> curve;
  std::map<std::string, std::string> identity;  ///< see TrainOptions
};

/// Writes everything into one safetensors file, atomically: tensors under "model.", "optimizer."
/// and "state.", inputs as "past", the rest as JSON in its metadata.
void save_checkpoint(const std::string& path, Module& model, Optimizer& optimizer,
                     const Generator& generator, const TrainProgress& progress);

/// Restores it; false where there is no such file. Throws DataError, and changes nothing, where
/// the file is malformed, of another model (other names, shapes or kinds of layers), or differs in
/// what progress.identity names; the message tells the first difference.
bool load_checkpoint(const std::string& path, Module& model, Optimizer& optimizer,
                     Generator& generator, TrainProgress& progress);

/// What the run behind a checkpoint was: the identity of its TrainOptions. Throws DataError for a
/// file that is no checkpoint.
std::map<std::string, std::string> checkpoint_identity(const std::string& path);

}  // namespace unroll
