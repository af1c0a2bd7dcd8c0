#include <unroll/train/interrupt.h>

#include <algorithm>
#include <atomic>
#include <cstddef>

namespace unroll {
namespace {

volatile std::sig_atomic_t flag = 0;  // all that a signal handler may touch
std::atomic<int> guards = 0;

void on_signal(int number) {
  if (flag != 0) {
    std::signal(number, SIG_DFL);
    std::raise(number);
  }
  flag = 1;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  // oneDNN's generated products use the stack pointer as one more register: a handler that ran "on
  // the stack" would write into whatever matrix that points to. So it gets a stack of its own.
  stack_t present{};
  sigaltstack(nullptr, &present);
  if ((present.ss_flags & SS_DISABLE) != 0) {
    const auto size = std::max<std::size_t>(64 * 1024, static_cast<std::size_t>(SIGSTKSZ));
    stack_ = std::make_unique<std::byte[]>(size);
    stack_t own{};
    own.ss_sp = stack_.get();
    own.ss_size = size;
    sigaltstack(&own, nullptr);
  }
  // A guard within another one must not forget what that one has seen.
  if (guards++ == 0) flag = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK | SA_RESTART;
  sigaction(SIGINT, &action, &previous_int_);
  sigaction(SIGTERM, &action, &previous_term_);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &previous_int_, nullptr);
  sigaction(SIGTERM, &previous_term_, nullptr);
  --guards;
  if (stack_ == nullptr) return;
  stack_t none{};
  none.ss_flags = SS_DISABLE;
  sigaltstack(&none, nullptr);
}

bool InterruptGuard::requested() { return flag != 0; }

}  // namespace unroll
