#pragma once

#include <csignal>
#include <cstddef>
#include <memory>

namespace unroll {

/// While it lives, Ctrl-C (SIGINT) and SIGTERM set a flag in place of ending the program, so that
/// a run can save itself. A second Ctrl-C ends it. For the thread that makes it. Guards may nest:
/// the outermost one begins with the flag cleared.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool requested();

 private:
  struct sigaction previous_int_ {};
  struct sigaction previous_term_ {};
  std::unique_ptr<std::byte[]> stack_;  // where the handler runs
};

}  // namespace unroll
