#pragma once

#include <unroll/graph/error.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace unroll {

/// What a buffer is for; memory_stats() counts each kind.
enum class MemoryKind : std::uint8_t { value, gradient, parameter, optimizer };
inline constexpr int memory_kinds = 4;

/// A reference-counted block of memory: this header, then the data, 64-byte aligned. A phantom,
/// met in a dry run, is counted like any other and has no data.
struct alignas(64) Buffer {
  std::atomic<std::uint32_t> references{1};
  MemoryKind kind = MemoryKind::value;
  std::uint16_t size_class = 0;
  bool phantom = false;
  std::size_t capacity = 0;  ///< bytes of data
  Buffer* next = nullptr;    ///< of the blocks in a cache

  std::byte* data() { return reinterpret_cast<std::byte*>(this) + sizeof(Buffer); }
  void retain() { references.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    // The only owner need not lock the count: nobody else is there to change it.
    if (references.load(std::memory_order_acquire) == 1 ||
        references.fetch_sub(1, std::memory_order_acq_rel) == 1)
      free();
  }

  /// A block of at least `bytes`, from the thread's cache where one of its size class is free.
  /// Throws MemoryError where the limit or the system's memory ends; apply() adds the op's name.
  static Buffer* allocate(std::size_t bytes);
  /// A block without data, counted as if it had some.
  static Buffer* allocate_phantom(std::size_t bytes);

 private:
  void free();
};

struct MemoryStats {
  std::int64_t live = 0;    ///< bytes in buffers that something refers to
  std::int64_t peak = 0;    ///< the most since reset_peak_memory(), each thread's added up
  std::int64_t cached = 0;  ///< bytes held for reuse
  std::array<std::int64_t, memory_kinds> live_by_kind{};
  std::int64_t allocations = 0;         ///< buffers handed out
  std::int64_t system_allocations = 0;  ///< of these, the ones that the cache could not serve
};

MemoryStats memory_stats();
void reset_peak_memory();

/// From here on buffers take no more than `bytes` from the system, those kept for reuse included;
/// 0: as much as it has. What the calling thread keeps for reuse is given back now, and whenever
/// the limit is met, before anything fails; what other threads keep counts. Where more is held
/// already it stays, and nothing is added to it. Throws Error for a negative number.
void set_memory_limit(std::int64_t bytes);
std::int64_t memory_limit();  ///< in bytes; 0: none

/// Memory ended: the limit's or the system's. The message tells the op that asked, the bytes asked
/// and what was live, in all and by kind. Parameters and optimizers are as they were.
class MemoryError : public Error {
 public:
  explicit MemoryError(std::size_t bytes);
  /// The same, seen from the op, walk back or optimizer in which it happened: `op` stands at the
  /// beginning of the message; the first op to be named so, and its operands, are those that asked.
  MemoryError(const MemoryError& inside, std::string_view op, std::string_view operands,
              const Where& where);

 private:
  struct Story {
    std::string asked, by, live, place;
  };
  MemoryError(std::string_view op, Story story);

  Story story_;
};
/// Gives the calling thread's cached blocks back to the system.
void release_cached_memory();

/// While it lives, what this thread allocates is counted as `kind`.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryKind kind);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

 private:
  MemoryKind previous_;
};

namespace detail {
/// On this thread tensors are phantoms and ops only infer: see DryRun.
inline constinit thread_local bool dry = false;
/// The most that this thread has had live; the second sets it.
std::int64_t thread_peak();
void set_thread_peak(std::int64_t bytes);
std::int64_t thread_live();
/// Leaves a live buffer out of the counts, or takes it in again.
void count_buffer(const Buffer& buffer, bool counted);
}  // namespace detail

/// What will be written `bytes` behind `place` comes into the first-level cache meanwhile, which a
/// tape outgrows.
inline void fetch_ahead(const void* place, std::size_t bytes) {
  __builtin_prefetch(static_cast<const std::byte*>(place) + bytes, 1);
}

/// Lets standard containers live in cached blocks, so that a tape costs no heap allocation.
template <class T>
struct CachedAllocator {
  using value_type = T;
  CachedAllocator() = default;
  template <class U>
  CachedAllocator(const CachedAllocator<U>&) {}  // NOLINT: allocators convert
  T* allocate(std::size_t n) {
    // NOLINTNEXTLINE(bugprone-sizeof-expression): T may be a pointer
    return reinterpret_cast<T*>(Buffer::allocate(n * sizeof(T))->data());
  }
  void deallocate(T* pointer, std::size_t) {
    reinterpret_cast<Buffer*>(reinterpret_cast<std::byte*>(pointer) - sizeof(Buffer))->release();
  }
  friend bool operator==(const CachedAllocator&, const CachedAllocator&) { return true; }
};
template <class T>
using CachedVector = std::vector<T, CachedAllocator<T>>;

}  // namespace unroll
