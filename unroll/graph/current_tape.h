#pragma once

#include <unroll/graph/tape.h>

#include <string>
#include <utility>

// What recording (tape.cpp) and the walk back (backward.cpp) share.

namespace unroll::detail {

/// Swaps the current tape and swaps it back, whatever happens.
class CurrentTape {
 public:
  explicit CurrentTape(Tape* tape) : saved_(std::exchange(current_tape, tape)) {}
  ~CurrentTape() { current_tape = saved_; }
  CurrentTape(const CurrentTape&) = delete;
  CurrentTape& operator=(const CurrentTape&) = delete;

 private:
  Tape* saved_;
};

/// True also where there is nothing to look at: no data, no floating dtype.
bool all_finite(const Tensor& tensor);
/// "f32 [2, 3], f32 [3]"
std::string shapes_of(Args args);

}  // namespace unroll::detail
