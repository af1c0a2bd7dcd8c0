#pragma once

#include <unroll/train/trainer.h>

namespace unroll {

/// How far a training run is: what resuming needs besides model, optimizer and generators.
struct TrainProgress {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double seconds = 0;
  double best = 0;
  int since_best = 0;
  State state;  ///< carried from batch to batch
  std::vector<TrainPoint> curve;
};

/// Writes everything into one safetensors file, atomically: tensors under "model.", "optimizer."
/// and "state.", the rest as JSON in its metadata.
void save_checkpoint(const std::string& path, SequenceModel& model, Optimizer& optimizer,
                     const Generator& generator, const TrainProgress& progress);

/// Restores it; false where there is no such file. Throws DataError, and changes nothing, where
/// the file is malformed or of another model.
bool load_checkpoint(const std::string& path, SequenceModel& model, Optimizer& optimizer,
                     Generator& generator, TrainProgress& progress);

}  // namespace unroll
