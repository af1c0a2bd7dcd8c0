#pragma once

#include <chrono>

namespace unroll {

/// The clock that measurements read: it never goes back.
using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace unroll
