#include <unroll/train/interrupt.h>

#include <csignal>

#include "../catch.h"

using namespace unroll;

namespace {

bool has_stack() {
  stack_t stack{};
  sigaltstack(nullptr, &stack);
  return (stack.ss_flags & SS_DISABLE) == 0;
}

struct sigaction action_of(int number) {
  struct sigaction action {};
  sigaction(number, nullptr, &action);
  return action;
}

}  // namespace

TEST_CASE("an interrupt sets a flag, and what was there before comes back") {
  const auto before = action_of(SIGTERM);
  const bool had_stack = has_stack();
  {
    const InterruptGuard guard;
    CHECK(!InterruptGuard::requested());
    std::raise(SIGTERM);
    CHECK(InterruptGuard::requested());
  }
  CHECK(action_of(SIGTERM).sa_handler == before.sa_handler);
  CHECK(has_stack() == had_stack);
  const InterruptGuard again;
  CHECK(!InterruptGuard::requested());
}

TEST_CASE("a guard within another keeps what that one has seen") {
  {
    const InterruptGuard outer;
    std::raise(SIGTERM);
    {
      const InterruptGuard inner;
      CHECK(InterruptGuard::requested());
    }
    CHECK(InterruptGuard::requested());
  }
  const InterruptGuard next;
  CHECK(!InterruptGuard::requested());
}

TEST_CASE("the interrupt handler runs on a stack of its own") {
  // Generated products keep other things than the stack in the stack pointer.
  const InterruptGuard guard;
  CHECK(has_stack());
  for (const int number : {SIGINT, SIGTERM}) CHECK((action_of(number).sa_flags & SA_ONSTACK) != 0);
}
