#include <fmt/format.h>
#include <unroll/graph/cpu.h>
#include <unroll/graph/error.h>
#include <unroll/graph/memory.h>

#include <bit>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>
#include <utility>

namespace unroll {
namespace {

// Four classes between two powers of two: at most a quarter of a block is unused.
constexpr int class_count = 180;
constexpr std::size_t smallest = 64;
constexpr std::size_t largest = std::size_t{1} << 48;  // no machine has more; the classes reach it

int class_of(std::size_t bytes) {
  if (bytes <= smallest) return 0;
  const std::size_t units = (bytes - 1) / smallest;  // >= 1
  const int power = std::bit_width(units) - 1;
  const int quarter = power >= 2 ? static_cast<int>((units >> (power - 2)) & 3)
                                 : static_cast<int>((units << (2 - power)) & 3);
  return 1 + power * 4 + quarter;
}

std::size_t class_bytes(int size_class) {
  if (size_class == 0) return smallest;
  const int power = (size_class - 1) / 4;
  const std::size_t quarter = (size_class - 1) % 4;
  return ((((4 + quarter + 1) << power) + 3) / 4) * smallest;
}

// One thread's share of the counts, and its blocks that nobody uses. Only that thread writes: plain
// loads and stores, no locked instructions, which would cost more than the allocation itself. A
// block that another thread frees counts negative there; only the sums mean something.
struct ThreadMemory {
  std::atomic<std::int64_t> live{0}, peak{0}, cached{0}, allocations{0}, system{0};
  std::array<std::atomic<std::int64_t>, memory_kinds> by_kind{};
  std::array<Buffer*, class_count> free{};  // by size class, chained by Buffer::next

  static void add(std::atomic<std::int64_t>& count, std::int64_t amount) {
    count.store(count.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  void clear() {
    for (Buffer*& first : free) {
      while (first != nullptr) {
        Buffer* const block = std::exchange(first, first->next);
        add(cached, -static_cast<std::int64_t>(block->capacity));
        block->~Buffer();
        std::free(block);
      }
    }
  }
};

// All threads' memory. The counts outlive their threads, whose blocks may still be in use.
struct Registry {
  std::mutex mutex;
  std::deque<ThreadMemory> threads;
};

Registry& registry() {
  static Registry* const all = new Registry;  // never destroyed: used until the very end
  return *all;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool caching = false;  // a cached block would hide its misuse from the sanitizer
#else
constexpr bool caching = true;
#endif

// Plain pointers, which cost nothing to reach, unlike objects that a thread must first construct.
thread_local ThreadMemory* thread_memory = nullptr;
thread_local bool thread_ends = false;
thread_local MemoryKind current_kind = MemoryKind::value;

// Gives a thread's blocks back when it ends; those freed later go to the system at once.
struct ThreadEnd {
  ThreadMemory& memory;
  ~ThreadEnd() {
    memory.clear();
    thread_ends = true;
  }
};

ThreadMemory& register_thread() {
  Registry& all = registry();
  {
    const std::lock_guard lock(all.mutex);
    thread_memory = &all.threads.emplace_back();
  }
  thread_local const ThreadEnd end{*thread_memory};
  return *thread_memory;
}

ThreadMemory& this_thread() {
  if (thread_memory == nullptr) [[unlikely]]
    return register_thread();
  return *thread_memory;
}

[[noreturn]] void fail_to_allocate(std::size_t bytes) {
  const MemoryStats stats = memory_stats();
  fail("memory",
       fmt::format("{} bytes asked, {} live (values {}, gradients {}, parameters {}, "
                   "optimizer {}), none left",
                   bytes, stats.live, stats.live_by_kind[0], stats.live_by_kind[1],
                   stats.live_by_kind[2], stats.live_by_kind[3]),
       fmt::format("Use a smaller batch or a shorter sequence (built for {})", built_for()));
}

Buffer* system_block(std::size_t capacity) {
  void* memory = std::aligned_alloc(alignof(Buffer), sizeof(Buffer) + capacity);
  if (memory == nullptr) fail_to_allocate(capacity);
  return new (memory) Buffer;
}

}  // namespace

Buffer* Buffer::allocate(std::size_t bytes) {
  if (bytes > largest) fail_to_allocate(bytes);
  const int size_class = class_of(bytes);
  ThreadMemory& memory = this_thread();
  Buffer* block = memory.free[static_cast<std::size_t>(size_class)];
  if (block != nullptr) [[likely]] {
    memory.free[static_cast<std::size_t>(size_class)] = block->next;
    ThreadMemory::add(memory.cached, -static_cast<std::int64_t>(block->capacity));
    block->references.store(1, std::memory_order_relaxed);
  } else {
    const std::size_t capacity = class_bytes(size_class);
    block = system_block(capacity);
    block->size_class = static_cast<std::uint8_t>(size_class);
    block->capacity = capacity;
    ThreadMemory::add(memory.system, 1);
  }
  block->kind = current_kind;
  const auto size = static_cast<std::int64_t>(block->capacity);
  ThreadMemory::add(memory.allocations, 1);
  ThreadMemory::add(memory.by_kind[static_cast<std::size_t>(current_kind)], size);
  ThreadMemory::add(memory.live, size);
  const std::int64_t live = memory.live.load(std::memory_order_relaxed);
  if (live > memory.peak.load(std::memory_order_relaxed))
    memory.peak.store(live, std::memory_order_relaxed);
  return block;
}

void Buffer::free() {
  const auto size = static_cast<std::int64_t>(capacity);
  ThreadMemory& memory = this_thread();
  ThreadMemory::add(memory.live, -size);
  ThreadMemory::add(memory.by_kind[static_cast<std::size_t>(kind)], -size);
  if (caching && !thread_ends) [[likely]] {
    next = memory.free[size_class];
    memory.free[size_class] = this;
    ThreadMemory::add(memory.cached, size);
  } else {
    this->~Buffer();
    std::free(this);
  }
}

MemoryStats memory_stats() {
  MemoryStats stats;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  for (const ThreadMemory& one : all.threads) {
    stats.live += one.live;
    stats.peak += one.peak;
    stats.cached += one.cached;
    stats.allocations += one.allocations;
    stats.system_allocations += one.system;
    for (int i = 0; i < memory_kinds; ++i) stats.live_by_kind[i] += one.by_kind[i];
  }
  return stats;
}

void reset_peak_memory() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  for (ThreadMemory& one : all.threads) one.peak.store(one.live.load());
}

void release_cached_memory() { this_thread().clear(); }

MemoryScope::MemoryScope(MemoryKind kind) : previous_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = previous_; }

}  // namespace unroll
