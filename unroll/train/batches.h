#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/tensor.h>

#include <span>

namespace unroll {

/// Inputs and what they should lead to, both time-major.
struct Batch {
  Tensor x;
  Tensor y;
};

/// How many of `count` elements train: the first 90 %; the rest is held out. Throws DataError, with
/// the length that would do, where the rest holds no window of `steps`. `elements` names them.
std::int64_t training_part(const char* what, std::int64_t count, std::int64_t steps,
                           const char* elements);

/// Windows of a token stream at random places: x [T, B], y the same one token later.
class RandomWindows {
 public:
  /// Throws DataError where the stream is shorter than steps + 1. `tokens` must outlive this.
  RandomWindows(std::span<const std::int64_t> tokens, std::int64_t batch, std::int64_t steps);
  Batch next(Generator& generator) const;

 private:
  std::span<const std::int64_t> tokens_;
  std::int64_t batch_, steps_;
};

/// A token stream cut into B parallel streams that are read on and on: a batch continues where the
/// one before ended, so that a state can be carried across (truncated back-propagation).
class ContiguousWindows {
 public:
  ContiguousWindows(std::span<const std::int64_t> tokens, std::int64_t batch, std::int64_t steps);
  /// The next batch; after the last of an epoch the first again.
  Batch next();
  /// Is the next batch the first of an epoch, so that a carried state must be dropped?
  bool at_start() const { return position_ == 0; }
  std::int64_t batches() const { return length_ / steps_; }
  std::int64_t position() const { return position_; }
  void seek(std::int64_t position);

 private:
  std::span<const std::int64_t> tokens_;
  std::int64_t batch_, steps_, length_, position_ = 0;
};

/// Windows of a series [rows, channels] at random places: x [T, B, channels] and y [T, B, 1], the
/// target channel one step later.
class RandomSeriesWindows {
 public:
  RandomSeriesWindows(const Tensor& series, std::int64_t target, std::int64_t batch,
                      std::int64_t steps);
  Batch next(Generator& generator) const;

 private:
  Tensor series_;
  std::int64_t target_, batch_, steps_;
};

}  // namespace unroll
