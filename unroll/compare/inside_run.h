#pragma once

#include <unroll/train/sequence_model.h>

#include <vector>

namespace unroll::detail {

/// A model in evaluation mode, until its end.
class Evaluating {
 public:
  explicit Evaluating(SequenceModel& model) : model_(model), training_(model.training()) {
    model.eval();
  }
  ~Evaluating() { model_.train(training_); }
  Evaluating(const Evaluating&) = delete;
  Evaluating& operator=(const Evaluating&) = delete;

 private:
  SequenceModel& model_;
  bool training_;
};

/// A layer step by step: what entered each, and what it gave.
struct LayerRun {
  std::vector<Tensor> inputs, outputs;
  std::vector<State> states;  ///< that entered the step
};
/// Throws Error for a layer that has no step of constant state.
LayerRun run_steps(const ModelLayer& layer, std::vector<Tensor> inputs);

}  // namespace unroll::detail
