#include <fmt/format.h>
#include <unroll/graph/cpu.h>
#include <unroll/graph/error.h>
#include <unroll/graph/memory.h>

#include <bit>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>
#include <vector>

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

// One thread's share of the counts. Only that thread writes: plain loads and stores, no locked
// instructions, which would cost more than the allocation itself. A block that another thread
// frees counts negative there; only the sums mean something.
struct Counters {
  std::atomic<std::int64_t> live{0}, peak{0}, cached{0}, allocations{0}, system{0};
  std::array<std::atomic<std::int64_t>, memory_kinds> by_kind{};

  static void add(std::atomic<std::int64_t>& count, std::int64_t amount) {
    count.store(count.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
};

// All threads' counters. They outlive their threads, whose blocks may still be in use.
struct Registry {
  std::mutex mutex;
  std::deque<Counters> counters;
};

Registry& registry() {
  static Registry* const all = new Registry;  // never destroyed: used until the very end
  return *all;
}

Counters& register_thread() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  return all.counters.emplace_back();
}

thread_local Counters* thread_counters = nullptr;

Counters& counters() {
  if (thread_counters == nullptr) thread_counters = &register_thread();
  return *thread_counters;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool caching = false;  // a cached block would hide its misuse from the sanitizer
#else
constexpr bool caching = true;
#endif

// Blocks freed by this thread, by size class, chained through their data.
struct Cache {
  std::array<std::vector<Buffer*>, class_count> free;
  ~Cache();
  void clear();
};
thread_local bool cache_gone = false;  // trivially destroyed: readable after the cache itself
thread_local Cache cache;
thread_local MemoryKind current_kind = MemoryKind::value;

void Cache::clear() {
  for (auto& blocks : free) {
    for (Buffer* block : blocks) {
      Counters::add(counters().cached, -static_cast<std::int64_t>(block->capacity));
      block->~Buffer();
      std::free(block);
    }
    blocks.clear();
  }
}

Cache::~Cache() {
  clear();
  cache_gone = true;
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

}  // namespace

Buffer* Buffer::allocate(std::size_t bytes) {
  if (bytes > largest) fail_to_allocate(bytes);
  const int size_class = class_of(bytes);
  const std::size_t capacity = class_bytes(size_class);
  const auto size = static_cast<std::int64_t>(capacity);
  Counters& count = counters();
  Buffer* block = nullptr;
  if (caching && !cache_gone && !cache.free[size_class].empty()) {
    block = cache.free[size_class].back();
    cache.free[size_class].pop_back();
    Counters::add(count.cached, -size);
    block->references.store(1, std::memory_order_relaxed);
  } else {
    void* memory = std::aligned_alloc(alignof(Buffer), sizeof(Buffer) + capacity);
    if (memory == nullptr) fail_to_allocate(capacity);
    block = new (memory) Buffer;
    block->size_class = static_cast<std::uint8_t>(size_class);
    block->capacity = capacity;
    Counters::add(count.system, 1);
  }
  block->kind = current_kind;
  Counters::add(count.allocations, 1);
  Counters::add(count.by_kind[static_cast<int>(current_kind)], size);
  Counters::add(count.live, size);
  const std::int64_t live = count.live.load(std::memory_order_relaxed);
  if (live > count.peak.load(std::memory_order_relaxed))
    count.peak.store(live, std::memory_order_relaxed);
  return block;
}

void Buffer::free() {
  const auto size = static_cast<std::int64_t>(capacity);
  Counters& count = counters();
  Counters::add(count.live, -size);
  Counters::add(count.by_kind[static_cast<int>(kind)], -size);
  if (caching && !cache_gone) {
    cache.free[size_class].push_back(this);
    Counters::add(count.cached, size);
  } else {
    this->~Buffer();
    std::free(this);
  }
}

MemoryStats memory_stats() {
  MemoryStats stats;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  for (const Counters& one : all.counters) {
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
  for (Counters& one : all.counters) one.peak.store(one.live.load());
}

void release_cached_memory() { cache.clear(); }

MemoryScope::MemoryScope(MemoryKind kind) : previous_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = previous_; }

}  // namespace unroll
