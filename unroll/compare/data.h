#pragma once

#include <unroll/compare/compare.h>
#include <unroll/compare/inside.h>
#include <unroll/compare/tasks.h>
#include <unroll/train/trainer.h>

#include <memory>
#include <nlohmann/json_fwd.hpp>

namespace unroll {

/// Real input made ready: the task, what models must take and give, and what it was.
struct CompareData {
  TrainTask task;    ///< next() draws training windows; evaluate() uses fixed held-out ones
  ModelConfig base;  ///< vocabulary or features, and outputs
  /// Held-out inputs [steps, batch(, F)] and the loss of the last output, for gradient flow.
  std::function<Tensor(std::int64_t steps, std::int64_t batch, Generator&)> held_out;
  std::function<Tensor(const Tensor& last)> last_loss;
  /// The held-out part as what a model is looked at with; empty for a task.
  std::function<InspectSource(std::int64_t steps)> inspect;
  std::string metric;       ///< "nats per character", "mean squared error, standardised"
  double uniform_loss = 0;  ///< of knowing nothing: log of the vocabulary; the variance
  const LongRangeTask* exact = nullptr;  ///< the synthetic task that this is
  std::int64_t length = 0;               ///< that it is trained up to
  /// A text read on and on, `steps` at a time, by as many readers as there are in a batch.
  std::function<TrainTask(std::int64_t steps)> stream;
  std::shared_ptr<void> owner;  ///< keeps what the functions refer to
};

/// Reads and splits: the first 90 % train, the rest is held out.
CompareData load_data(const CompareOptions& options, std::int64_t batch, std::int64_t context,
                      int evaluation_batches, nlohmann::json& description);

}  // namespace unroll
