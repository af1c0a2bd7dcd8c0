#pragma once

namespace unroll {

/// While it lives, Ctrl-C (SIGINT) and SIGTERM set a flag in place of ending the program, so that
/// a run can save itself. A second Ctrl-C ends it.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool requested();

 private:
  void (*previous_int_)(int);
  void (*previous_term_)(int);
};

}  // namespace unroll
