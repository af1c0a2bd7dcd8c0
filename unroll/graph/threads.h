#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>
#include <mutex>
#ifdef __SANITIZE_THREAD__
#include <thread>
#include <vector>
#endif

namespace unroll {

/// How many threads large work may use (at least 1; default 1). Results do not depend on it: work
/// is cut by its size alone, then dealt to however many threads there are.
void set_threads(int count);
int threads();

namespace detail {
inline int thread_count = 1;
inline thread_local bool alone = false;

/// While it lives, what this thread does it does by itself: loops are not dealt out, and what is
/// bound (Op::bind) is bound for one thread.
class Alone {
 public:
  Alone() : before_(alone) { alone = true; }
  ~Alone() { alone = before_; }
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  bool before_;
};

// Denormals cost a hundredfold and vanishing gradients are made of them: flushed to zero while
// this lives. x86 only; elsewhere it does nothing.
class FlushDenormals {
 public:
#ifdef __SSE2__
  /// One lives on this thread.
  static bool on() { return depth > 0; }
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
#else
  static bool on() { return true; }
#endif
};

/// What the pieces of one loop throw: nothing may leave an OpenMP region, so it waits here.
class FirstError {
 public:
  template <class F>
  void guard(std::int64_t piece, const F& run) noexcept {
    try {
      run();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (error_ == nullptr || piece < piece_) {
        error_ = std::current_exception();
        piece_ = piece;
      }
    }
  }
  /// Throws what the first of the pieces threw, the same one however many threads there were.
  void rethrow() const {
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
  std::int64_t piece_ = 0;
};

/// Calls run(i) for every i below `pieces`, dealt to the threads in runs of neighbours.
template <class F>
void spread(std::int64_t pieces, const F& run) {
#ifdef __SANITIZE_THREAD__
  // The thread sanitizer does not see how libgomp's threads wait for each other, and would take
  // every result for a race. It sees std::thread.
  std::vector<std::thread> workers;
  for (int t = 0; t < thread_count; ++t)
    workers.emplace_back([&, t] {
      alone = true;
      for (std::int64_t i = pieces * t / thread_count; i < pieces * (t + 1) / thread_count; ++i)
        run(i);
    });
  for (std::thread& worker : workers) worker.join();
#else
#pragma omp parallel for schedule(static) num_threads(thread_count)
  for (std::int64_t i = 0; i < pieces; ++i) run(i);
#endif
}

inline bool is_alone() { return alone || thread_count == 1 || omp_in_parallel() != 0; }
}  // namespace detail

/// Runs f(begin, end) over pieces of at most `piece` items that cover 0..count. The pieces are the
/// same whatever the number of threads, and so are the results. `work` estimates the operations in
/// all, some 40 of which take a nanosecond; where memory is what it takes, a number that is read or
/// written counts as 4 to 8. Small work stays on one thread. What f throws in several pieces is
/// thrown once, behind all.
template <class F>
void parallel_for(std::int64_t count, std::int64_t piece, double work, F&& f) {
  const std::int64_t pieces = (count + piece - 1) / piece;
  constexpr double worth_a_thread = 4e6;  // about 100 us, a few times what waking a thread costs
  if (pieces < 2 || work < worth_a_thread || detail::is_alone()) {
    for (std::int64_t i = 0; i < pieces; ++i)
      f(i * piece, (i + 1) * piece < count ? (i + 1) * piece : count);
    return;
  }
  detail::FirstError error;
  detail::spread(pieces, [&](std::int64_t i) {
    error.guard(i, [&] {
      const detail::FlushDenormals flush;
      f(i * piece, (i + 1) * piece < count ? (i + 1) * piece : count);
    });
  });
  error.rethrow();
}

}  // namespace unroll
