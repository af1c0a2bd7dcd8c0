#pragma once

#include <unroll/graph/program.h>
#include <unroll/optim/optimizer.h>

#include <list>
#include <span>
#include <vector>

namespace unroll {

struct TrainStepOptions {
  double clip_norm = 0;      ///< of all gradients together; 0: no clipping
  std::size_t programs = 8;  ///< how many shapes of inputs are remembered, the latest ones
};

/// A whole training step as one replay: forward, backward, clipping, optimizer. The function is
/// traced when inputs of new shapes arrive, and gives the bits that recording it gives.
///
///     TrainStep step([&](auto in) -> std::vector<Tensor> {
///       return {cross_entropy(model(in[0]), in[1])};
///     }, optimizer, {.clip_norm = 1});
///     for (auto [x, y] : batches) double loss = step({x, y})[0].item();
///
/// The function is called while traced alone: what it does besides calling ops is not repeated, and
/// what it reads besides its inputs and parameters (other tensors, numbers, train() or eval())
/// stays as it was. clear() lets it be traced anew. Parameters that are frozen or thawed, and the
/// precision of the tape around, are noticed.
class TrainStep {
 public:
  /// `f` gives the loss [one element] first; more may follow, as the state to carry on. The
  /// optimizer must outlive this object. Throws Error where f is empty.
  TrainStep(TraceFunction f, Optimizer& optimizer, const TrainStepOptions& options = {});

  /// Trains on one batch and returns what f gave. The optimizer's parameters lose the gradients
  /// that they had; another parameter that f reads has those of this step alone, not a sum. Throws
  /// Error as trace_gradient() does, and where the loss is not finite or memory ends (MemoryError,
  /// naming the op): parameters and optimizer are then as they were.
  std::span<const Tensor> operator()(std::span<const Tensor> inputs);
  std::span<const Tensor> operator()(std::initializer_list<Tensor> inputs) {
    return (*this)(std::span(inputs.begin(), inputs.size()));
  }

  /// The gradients' norm before clipping, of the last step; 0 without clipping.
  double grad_norm() const { return grad_norm_; }
  /// Forgets the programs.
  void clear() { programs_.clear(); }
  /// How many programs are remembered.
  std::size_t programs() const { return programs_.size(); }

 private:
  struct Entry {
    std::vector<Spec> inputs;
    DType precision;
    Program program;
    std::vector<bool> trainable;  // by parameter
  };

  Program& program_for(std::span<const Tensor> inputs);

  TraceFunction f_;
  Optimizer& optimizer_;
  TrainStepOptions options_;
  std::list<Entry> programs_;  // the latest used first
  double grad_norm_ = 0;
};

}  // namespace unroll
