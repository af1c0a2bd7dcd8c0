#pragma once

#include <unroll/ops/scan.h>

#include <memory>
#include <utility>

namespace unroll::detail {

/// A walk back of a scan is one op, without a gradient of its own.
[[noreturn]] void fail_second_gradient();

/// Throws Error where the state that a cell returns is not like the one it got.
void check_state(const State& before, const State& after, const Where& where);

/// How one traced step is spread over time: which nodes of the trace run once, which over all
/// steps' rows together, and which stay in the loop.
class ScanPlan {
 public:
  enum class Place : std::uint8_t {
    unused,
    once,    // the same for all steps
    before,  // over all steps' rows together, ahead of the loop
    loop,
    after,   // over all steps' rows together, behind the loop
    summed,  // as after, and the result is the sum over the steps
  };

  struct Options {
    bool masked = false;   ///< a mask [B, 1] tells which rows' sequences last
    bool reverse = false;  ///< from the last step to the first
    bool needs_x = false;  ///< is the gradient of xs wanted?
  };

  /// Traces the cell on the shapes of one step, x and states; with the walk back too where somebody
  /// wants a gradient. Captures are told to want theirs by the tape around.
  ScanPlan(const Cell& cell, const Spec& x, const State& state, const Options& options,
           const Where& where);

  /// What the cell uses from outside, recorded on the surrounding tape. The plan, which a tape may
  /// keep, does not hold on to it.
  std::vector<Tensor> take_captures() { return std::exchange(captures_, {}); }
  std::size_t captures() const { return capture_values_.size(); }
  /// A cell that draws random numbers would draw the same ones at every step.
  bool random() const { return random_; }
  /// Was the walk back traced?
  bool differentiates() const { return output_seed_ != none; }

  std::size_t states() const { return states_in_.size(); }
  bool masked() const { return masked_; }
  bool reverse() const { return reverse_; }
  Spec output() const { return tensor_of(output_).spec(); }
  Spec state(std::size_t k) const { return tensor_of(states_in_[k]).spec(); }
  /// Elements of what it captures: a step multiplies about so many pairs of numbers for each row.
  double capture_elements() const;

  /// What forward keeps for the way back: specs of [T + 1, ...] tracks of states, then of [T, ...]
  /// stacks of other values.
  std::size_t kept() const;
  void infer_kept(std::int64_t steps, std::span<Spec> out) const;

 private:
  static constexpr std::uint32_t none = ~0u;
  friend class ScanRun;
  friend class ScanForward;
  friend class ScanBackward;

  void trace_back(const Tape& outer, bool needs_x);
  void place_forward();
  void place_backward();
  bool try_place_backward(std::vector<bool>& forced);
  void choose_saved();
  std::vector<bool> reached_from(std::span<const std::uint32_t> values) const;
  void mark_ancestors(std::uint32_t value, std::vector<bool>& marked) const;
  Rows rows_of(const Node& node, const std::vector<bool>& stacked) const;
  const Tensor& tensor_of(std::uint32_t value) const { return tape_->value(value).tensor; }
  std::uint32_t producer(std::uint32_t value) const { return tape_->value(value).producer; }
  bool is_constant(std::uint32_t value) const { return producer(value) == Value::constant; }
  Place place_of(std::uint32_t value) const { return place_[producer(value)]; }

  std::unique_ptr<Tape> tape_;  // one step: forward nodes, then those of the walk back
  std::size_t forward_nodes_ = 0;
  bool masked_ = false, reverse_ = false, random_ = false;
  std::vector<Place> place_;  // by node
  // Value ids in the trace.
  std::uint32_t x_ = none, mask_ = none, output_ = none;
  std::vector<std::uint32_t> states_in_, states_out_, capture_values_;
  std::vector<Tensor> captures_;
  std::uint32_t output_seed_ = none, x_grad_ = none;
  std::vector<std::uint32_t> state_seeds_, state_grads_, capture_grads_;
  // What forward leaves for backward: whole tracks of states, and stacks of other values.
  std::vector<bool> tracked_;
  std::vector<std::uint32_t> saved_;
};

}  // namespace unroll::detail
