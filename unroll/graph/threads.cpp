#include <unroll/graph/error.h>
#include <unroll/graph/threads.h>

#include <string>

namespace unroll {

void set_threads(int count) {
  if (count < 1) fail("set_threads", "at least 1 thread, got " + std::to_string(count));
  detail::thread_count = count;
}

int threads() { return detail::thread_count; }

}  // namespace unroll
