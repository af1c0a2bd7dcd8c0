#pragma once

#include <unroll/graph/tape.h>
#include <unroll/layers/module.h>

namespace unroll {

/// While it lives, a module is in evaluation mode and nothing is recorded; then it is as it was.
class Evaluation {
 public:
  explicit Evaluation(Module& model) : model_(model), training_(model.training()) { model.eval(); }
  Evaluation(const Evaluation&) = delete;
  Evaluation& operator=(const Evaluation&) = delete;
  ~Evaluation() { model_.train(training_); }

 private:
  NoGrad constant_;
  Module& model_;
  bool training_;
};

}  // namespace unroll
