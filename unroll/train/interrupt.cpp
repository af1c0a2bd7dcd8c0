#include <unroll/train/interrupt.h>

#include <csignal>

namespace unroll {
namespace {

volatile std::sig_atomic_t flag = 0;  // all that a signal handler may touch

void on_signal(int number) {
  if (flag != 0) {
    std::signal(number, SIG_DFL);
    std::raise(number);
  }
  flag = 1;
}

}  // namespace

InterruptGuard::InterruptGuard()
    : previous_int_(std::signal(SIGINT, on_signal)),
      previous_term_(std::signal(SIGTERM, on_signal)) {
  flag = 0;
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, previous_int_);
  std::signal(SIGTERM, previous_term_);
}

bool InterruptGuard::requested() { return flag != 0; }

}  // namespace unroll
