#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

namespace unroll {

/// How many threads large work may use (at least 1; default 1). Results do not depend on it: work
/// is cut by its size alone, then dealt to however many threads there are.
void set_threads(int count);
int threads();

namespace detail {
inline int thread_count = 1;

// Denormals cost a hundredfold and vanishing gradients are made of them: flushed to zero while
// this lives. x86 only; elsewhere it does nothing.
class FlushDenormals {
 public:
#ifdef __SSE2__
  FlushDenormals() {
    if (depth++ > 0) return;
    saved_ = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(saved_ | 0x8040);  // FTZ and DAZ
  }
  ~FlushDenormals() {
    if (--depth == 0) __builtin_ia32_ldmxcsr(saved_);
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  static inline thread_local int depth = 0;
  static inline thread_local unsigned saved_ = 0;
#endif
};
}  // namespace detail

/// Runs f(begin, end) over pieces of at most `piece` items that cover 0..count. The pieces are the
/// same whatever the number of threads, and so are the results. `work` estimates the operations in
/// all; small work stays on one thread. What f throws on any thread (memory may end) is thrown
/// here.
template <class F>
void parallel_for(std::int64_t count, std::int64_t piece, double work, F&& f) {
  const std::int64_t pieces = (count + piece - 1) / piece;
  constexpr double worth_a_thread = 1e6;  // about 100 us, some 30 times what waking a thread costs
  if (detail::thread_count == 1 || pieces < 2 || work < worth_a_thread || omp_in_parallel()) {
    for (std::int64_t i = 0; i < pieces; ++i)
      f(i * piece, (i + 1) * piece < count ? (i + 1) * piece : count);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel for schedule(static) num_threads(detail::thread_count)
  for (std::int64_t i = 0; i < pieces; ++i) {
    const detail::FlushDenormals flush;
    try {
      f(i * piece, (i + 1) * piece < count ? (i + 1) * piece : count);
    } catch (...) {
#pragma omp critical(unroll_parallel_for)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace unroll
