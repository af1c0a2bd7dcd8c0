#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace unroll {

/// What a buffer is for; memory_stats() counts each kind.
enum class MemoryKind : std::uint8_t { value, gradient, parameter, optimizer };
inline constexpr int memory_kinds = 4;

/// A reference-counted block of memory: this header, then the data, 64-byte aligned.
struct alignas(64) Buffer {
  std::atomic<std::uint32_t> references{1};
  MemoryKind kind = MemoryKind::value;
  std::uint8_t size_class = 0;
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
  /// Throws Error naming the bytes asked and what is live when the system has none left.
  static Buffer* allocate(std::size_t bytes);

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

}  // namespace unroll
