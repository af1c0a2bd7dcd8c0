#pragma once

#include <unroll/layers/recurrent.h>

namespace unroll {

/// A recurrent cell which also has a form for all steps at once: what does not depend on the state
/// is one product over the whole sequence, and the recurrence itself is one op. Three ways to run
/// it agree: run(), run() with `.unrolled` (the step below, of plain ops, on the tape), and scan().
/// A single step of a stream is run() with T = 1: its state has the same size however much went by.
class ParallelCell : public RecurrentCell {
 public:
  /// x [T, B, input] and the state behind earlier steps (empty: that of the beginning) -> outputs
  /// [T, B, output] and the state behind these. With lengths, outputs behind a sequence's end are 0
  /// and its state is that of its own last step.
  Output run(const Tensor& x, const RecurrentCall& call = {}, Where where = Where::current()) const;

  virtual std::int64_t input_size() const = 0;
  /// What initial_state() is zeros of.
  virtual std::vector<Shape> state_shapes(std::int64_t batch) const = 0;
  State initial_state(std::int64_t batch, DType dtype) const override;

 protected:
  /// All steps, lengths checked or undefined. What it gives behind a sequence's end is dropped, but
  /// the state must not move there.
  virtual Output parallel(const Tensor& x, const State& state, const Tensor& lengths,
                          Where where) const = 0;

 private:
  void check(const Tensor& x, const State& state, const Where& caller) const;
};

namespace detail {
/// `inside` where a sequence lasts and the number `outside` behind its end: x [T, B, ...] as it is
/// where no lengths are given.
Tensor within(const Tensor& x, double outside, const Tensor& lengths, const Where& where);
}  // namespace detail

}  // namespace unroll
