#pragma once

#include <unroll/graph/kernel.h>

#include <cstdint>
#include <span>
#include <vector>

namespace unroll::detail {

/// Where an operand lies at the first step, and how far on it lies at each further one.
struct Cursor {
  std::byte* at = nullptr;
  std::ptrdiff_t step = 0;
  bool alternates = false;  ///< between two places: there and back again
};

/// A loop over time whose every call has been bound beforehand: a step moves pointers and runs
/// kernels, nothing else.
class ScanLoop {
 public:
  /// The op's call is part of each step, in the order of calls.
  void call(const Op& op, Args in, std::span<const bool> fixed, std::span<const Cursor> inputs,
            std::span<const Cursor> outputs);
  /// At the end of each step: to = from.
  void copy(const Cursor& from, const Cursor& to, std::size_t bytes);
  /// At the end of each step: sum += part, from a sum of zeros on.
  void add(const Cursor& part, Tensor& sum);

  void run(std::int64_t steps);

 private:
  template <class T>
  using List = std::vector<T, CachedAllocator<T>>;
  struct Call {
    const Kernel* kernel;
    std::size_t inputs, outputs;  // where theirs begin among the places
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

  Arena arena_;
  List<Call> calls_;
  List<Copy> copies_;
  List<Sum> sums_;
  List<std::byte*> places_;
  List<std::ptrdiff_t> steps_;  // of each place
  List<std::size_t> alternating_;
};

}  // namespace unroll::detail
