#include <fmt/format.h>
#include <unroll/graph/cpu.h>
#include <unroll/graph/error.h>
#include <unroll/graph/memory.h>

#include <bit>
#include <cstdlib>
#include <new>
#include <vector>

namespace unroll {
namespace {

// Four classes between two powers of two: at most a quarter of a block is unused.
constexpr int class_count = 180;
constexpr std::size_t smallest = 64;

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

struct Counters {
  std::atomic<std::int64_t> live{0}, peak{0}, cached{0}, allocations{0}, system{0};
  std::array<std::atomic<std::int64_t>, memory_kinds> by_kind{};
};
Counters counters;

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
      counters.cached.fetch_sub(static_cast<std::int64_t>(block->capacity),
                                std::memory_order_relaxed);
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

}  // namespace

Buffer* Buffer::allocate(std::size_t bytes) {
  const int size_class = class_of(bytes);
  const std::size_t capacity = class_bytes(size_class);
  Buffer* block = nullptr;
  if (caching && !cache_gone && !cache.free[size_class].empty()) {
    block = cache.free[size_class].back();
    cache.free[size_class].pop_back();
    counters.cached.fetch_sub(static_cast<std::int64_t>(capacity), std::memory_order_relaxed);
    block->references.store(1, std::memory_order_relaxed);
  } else {
    void* memory = std::aligned_alloc(alignof(Buffer), sizeof(Buffer) + capacity);
    if (memory == nullptr) {
      const MemoryStats stats = memory_stats();
      fail("memory",
           fmt::format("{} bytes asked, {} live (values {}, gradients {}, parameters {}, "
                       "optimizer {}), none left",
                       capacity, stats.live, stats.live_by_kind[0], stats.live_by_kind[1],
                       stats.live_by_kind[2], stats.live_by_kind[3]),
           fmt::format("Use a smaller batch or a shorter sequence (built for {})", built_for()));
    }
    block = new (memory) Buffer;
    block->size_class = static_cast<std::uint8_t>(size_class);
    block->capacity = capacity;
    counters.system.fetch_add(1, std::memory_order_relaxed);
  }
  block->kind = current_kind;
  const auto size = static_cast<std::int64_t>(capacity);
  counters.allocations.fetch_add(1, std::memory_order_relaxed);
  counters.by_kind[static_cast<int>(current_kind)].fetch_add(size, std::memory_order_relaxed);
  const std::int64_t live = counters.live.fetch_add(size, std::memory_order_relaxed) + size;
  std::int64_t peak = counters.peak.load(std::memory_order_relaxed);
  while (live > peak && !counters.peak.compare_exchange_weak(peak, live)) {
  }
  return block;
}

void Buffer::free() {
  const auto size = static_cast<std::int64_t>(capacity);
  counters.live.fetch_sub(size, std::memory_order_relaxed);
  counters.by_kind[static_cast<int>(kind)].fetch_sub(size, std::memory_order_relaxed);
  if (caching && !cache_gone) {
    cache.free[size_class].push_back(this);
    counters.cached.fetch_add(size, std::memory_order_relaxed);
  } else {
    this->~Buffer();
    std::free(this);
  }
}

MemoryStats memory_stats() {
  MemoryStats stats{.live = counters.live,
                    .peak = counters.peak,
                    .cached = counters.cached,
                    .allocations = counters.allocations,
                    .system_allocations = counters.system};
  for (int i = 0; i < memory_kinds; ++i) stats.live_by_kind[i] = counters.by_kind[i];
  return stats;
}

void reset_peak_memory() { counters.peak.store(counters.live.load()); }

void release_cached_memory() { cache.clear(); }

MemoryScope::MemoryScope(MemoryKind kind) : previous_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = previous_; }

}  // namespace unroll
