#pragma once

#include <unroll/graph/parameter.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace unroll {

/// While it lives, this thread's new tensors have a shape and counted memory but no data, and ops
/// infer instead of computing. memory_stats() therefore goes up and down, and peaks, as it would in
/// a real run; nothing large is allocated. At its end gradients and optimizers are as they were,
/// and the thread's peak too.
///
/// Reading data is an Error, as while tracing. An op that `allocates()` runs its forward(), which
/// must not touch data where its inputs are abstract; ops made of other ops do not.
class DryRun {
 public:
  DryRun();
  ~DryRun();
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;

  /// Within a dry run: the parameter's gradient is about to change. Keeps it, uncounted, and puts a
  /// phantom in its place.
  static void set_aside(const std::shared_ptr<ParameterState>& parameter);
  /// Within a dry run: clears these tensors at its end, if they still exist.
  static void clear_at_end(const std::shared_ptr<std::vector<Tensor>>& tensors);

 private:
  std::vector<std::pair<std::shared_ptr<ParameterState>, Tensor>> gradients_;
  std::vector<std::weak_ptr<std::vector<Tensor>>> cleared_;
  DryRun* outer_;
  std::int64_t peak_;
};

/// What memory_stats() would tell in a training loop, once warm, of `step`: forward, backward and
/// the optimizer's step; `peak` is the most within it. Runs `step` twice as a dry run, so that what
/// the first step leaves (moments) is there in the second. Inputs that `step` makes with
/// Tensor::empty() count; a Tensor::abstract() from outside does not. Models may be real, or built
/// within a DryRun themselves. Throws Error where `step` reads data, and whatever it throws.
MemoryStats predict_memory(const std::function<void()>& step);

}  // namespace unroll
