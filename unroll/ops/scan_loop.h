#pragma once

#include <unroll/graph/kernel.h>

#include <cstdint>
#include <span>

namespace unroll::detail {

/// Where an operand lies at the first step, and how far on it lies at each further one.
struct Cursor {
  std::size_t base = 0;   ///< which piece of memory it lies in: see ScanLoop::begin()
  std::ptrdiff_t at = 0;  ///< from there on
  std::ptrdiff_t step = 0;
  bool alternates = false;  ///< between two places: there and back again
  bool restarts = false;    ///< every run() begins where the first one did
};

/// A loop over time whose every call has been bound beforehand: a step moves pointers and runs
/// kernels, nothing else. Bound once, it can run again on other memory.
class ScanLoop {
 public:
  /// Kernels are kept in `arena`, which outlives the loop.
  explicit ScanLoop(Arena& arena) : arena_(arena) {}

  /// The op's call is part of each step, in the order of calls. `in` has the data of those fixed,
  /// whose cursors stand still.
  void call(const Op& op, Args in, std::span<const bool> fixed, std::span<const Cursor> inputs,
            std::span<const Cursor> outputs);
  /// At the end of each step: to = from.
  void copy(const Cursor& from, const Cursor& to, std::size_t bytes);
  /// At the end of each step: sum += part, from a sum of zeros on.
  void add(const Cursor& part, Tensor& sum);

  /// The next run() is the first on this memory; the data of what is fixed has changed where it is
  /// `refreshed`.
  void begin(std::span<std::byte* const> bases, bool refreshed);
  /// The next steps, behind those of the last run.
  void run(std::int64_t steps);

 private:
  struct Call {
    const Kernel* kernel;
    std::size_t inputs, outputs;  // where theirs begin among the places
    bool any_fixed;
  };
  struct Copy {
    std::size_t from, to, bytes;
  };
  struct Sum {
    std::size_t part;
    Tensor* sum;
  };
  std::size_t place(const Cursor& cursor);
  std::size_t place(std::span<const Cursor> cursors);
  void move();

  Arena& arena_;
  CachedVector<Call> calls_;
  CachedVector<Copy> copies_;
  CachedVector<Sum> sums_;
  CachedVector<Cursor> cursors_;        // where each place begins
  CachedVector<std::byte*> places_;     // of the next step
  CachedVector<std::ptrdiff_t> steps_;  // of each place
  CachedVector<std::size_t> alternating_;
  struct Restart {
    std::size_t place;
    std::byte* at;
  };
  CachedVector<Restart> restarts_;
  bool begun_ = false;
};

}  // namespace unroll::detail
