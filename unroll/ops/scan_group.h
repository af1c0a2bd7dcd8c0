#pragma once

#include <unroll/ops/scan_runs.h>

#include <memory>
#include <vector>

namespace unroll::detail {

/// Scans of one length that run as one op, so that they can run side by side: all on the same xs,
/// or each on the outputs of the one before, a chunk of steps behind it.
class ScanGroup {
 public:
  enum class Kind : std::uint8_t { parallel, stack };

  ScanGroup(Kind kind, std::vector<std::unique_ptr<ScanPlan>> plans)
      : kind_(kind), plans_(std::move(plans)) {}

  std::size_t size() const { return plans_.size(); }
  const ScanPlan& plan(std::size_t i) const { return *plans_[i]; }
  bool masked() const { return plan(0).masked(); }
  /// Are the outputs of this member read by the next alone?
  bool hidden(std::size_t member) const { return kind_ == Kind::stack && member + 1 < size(); }

  /// Inputs: xs, mask [T, B, 1] if masked, then each member's states and captures.
  std::size_t input_count() const { return inputs_of(size()); }
  /// Results: of each member output [T, ...], last states, and what it keeps for the way back.
  std::size_t result_count() const { return results_of(size()); }
  std::size_t results_of(std::size_t member) const;
  /// Those that the way back reads: what a member keeps, and its outputs if they are hidden.
  CachedVector<std::size_t> kept_results() const;
  void infer(Args in, std::span<Spec> out) const;
  void run(Args in, std::span<Tensor> out, ScanRuns<ScanForward>& runs) const;

  /// in: the inputs; the kept results; of each member the gradients of output, unless it is hidden,
  /// and last states. out: gradients of xs, and of each member's states and captures; undefined
  /// where nothing depends on one. With `overwrite` gradients may take the memory of kept results
  /// that nobody else refers to.
  void run_back(Args in, std::span<Tensor> out, bool overwrite, ScanRuns<ScanBackward>& runs) const;

 private:
  struct Split {
    bool side_by_side;
    std::int64_t chunk;
  };

  using Operands = CachedVector<const Tensor*>;

  std::size_t inputs_of(std::size_t member) const;
  Split split(const Tensor& xs) const;
  Operands forward_operands(std::size_t member, Args in, const Tensor& xs) const;
  Operands backward_operands(std::size_t member, Args in, const Tensor* output_gradient) const;
  // Where a member's kept results begin among all members', and the gradients of its results.
  std::size_t kept_of(std::size_t member) const;
  std::size_t gradients_of(std::size_t member) const;

  Kind kind_;
  std::vector<std::unique_ptr<ScanPlan>> plans_;
};

}  // namespace unroll::detail
