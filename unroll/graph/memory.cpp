#include <fmt/format.h>
#include <unroll/graph/memory.h>

#include <bit>
#include <cstdlib>
#include <deque>
#include <limits>
#include <mutex>
#include <new>
#include <utility>

namespace unroll {
namespace {

// Classes between two powers of two: four for small blocks, of which there are many kinds, sixteen
// for large ones, of which at most a sixteenth is then unused.
constexpr std::size_t smallest = 64;
constexpr std::size_t largest = std::size_t{1} << 48;  // no machine has more; the classes reach it
constexpr int small_powers = 10;                       // blocks up to 64 KiB
constexpr int class_count = 1 + 4 * small_powers + 16 * (42 - small_powers + 1);

constexpr int no_class = class_count;  // of what is larger

int class_of(std::size_t bytes) {
  if (bytes <= smallest) return 0;
  if (bytes > largest) [[unlikely]]
    return no_class;
  const std::size_t units = (bytes - 1) / smallest;  // >= 1
  const int power = std::bit_width(units) - 1;
  if (power >= small_powers)
    return 1 + 4 * small_powers + (power - small_powers) * 16 +
           static_cast<int>((units >> (power - 4)) & 15);
  const int quarter = power >= 2 ? static_cast<int>((units >> (power - 2)) & 3)
                                 : static_cast<int>((units << (2 - power)) & 3);
  return 1 + power * 4 + quarter;
}

std::size_t class_bytes(int size_class) {
  if (size_class == 0) return smallest;
  if (const int large = size_class - 1 - 4 * small_powers; large >= 0) {
    const auto part = static_cast<std::size_t>(large % 16);
    return ((16 + part + 1) << (large / 16 + small_powers)) / 16 * smallest;
  }
  const int power = (size_class - 1) / 4;
  const std::size_t quarter = (size_class - 1) % 4;
  return ((((4 + quarter + 1) << power) + 3) / 4) * smallest;
}

constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();
std::atomic<std::int64_t> most_held{unlimited};
// All blocks of all threads, in use or kept for reuse. It changes only where the system is asked,
// so that the limit costs nothing where a block comes from a cache.
std::atomic<std::int64_t> held{0};

bool reserve(std::int64_t bytes) {
  if (held.fetch_add(bytes, std::memory_order_relaxed) + bytes <=
      most_held.load(std::memory_order_relaxed))
    return true;
  held.fetch_sub(bytes, std::memory_order_relaxed);
  return false;
}

void give_back(Buffer* block) {
  held.fetch_sub(static_cast<std::int64_t>(block->capacity), std::memory_order_relaxed);
  block->~Buffer();
  std::free(block);
}

void* ask_system(std::size_t capacity) {
  if (!reserve(static_cast<std::int64_t>(capacity))) return nullptr;
  void* const memory = std::aligned_alloc(alignof(Buffer), sizeof(Buffer) + capacity);
  if (memory == nullptr)
    held.fetch_sub(static_cast<std::int64_t>(capacity), std::memory_order_relaxed);
  return memory;
}

// One thread's share of the counts, and its blocks that nobody uses. Only that thread writes: plain
// loads and stores, no locked instructions, which would cost more than the allocation itself. A
// block that another thread frees counts negative there; only the sums mean something.
struct ThreadMemory {
  std::atomic<std::int64_t> live{0}, peak{0}, allocations{0}, system{0};
  std::atomic<std::int64_t> unreal{0};  // of what is live: phantoms, less the blocks left out
  std::array<std::atomic<std::int64_t>, memory_kinds> by_kind{};
  // By size class, chained by Buffer::next; of no_class there are none.
  std::array<Buffer*, class_count + 1> free{};

  static void add(std::atomic<std::int64_t>& count, std::int64_t amount) {
    count.store(count.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  // Returns what is live now.
  std::int64_t count(MemoryKind kind, std::int64_t size) {
    add(by_kind[static_cast<std::size_t>(kind)], size);
    const std::int64_t now = live.load(std::memory_order_relaxed) + size;
    live.store(now, std::memory_order_relaxed);
    return now;
  }
  void count_new(MemoryKind kind, std::int64_t size) {
    const std::int64_t now = count(kind, size);
    if (now > peak.load(std::memory_order_relaxed)) peak.store(now, std::memory_order_relaxed);
  }
  void clear() {
    for (Buffer*& first : free) {
      while (first != nullptr) {
        give_back(std::exchange(first, first->next));
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

constinit ThreadMemory no_memory;  // has no block to give and is never written

// Plain pointers, which cost nothing to reach, unlike objects that a thread must first construct.
thread_local ThreadMemory* thread_memory = &no_memory;  // another one while the thread keeps blocks
thread_local ThreadMemory* ended_memory = nullptr;  // the same from when the thread ends: counts
thread_local MemoryKind current_kind = MemoryKind::value;

// Gives a thread's blocks back when it ends; those freed later go to the system at once.
struct ThreadEnd {
  ThreadMemory& memory;
  ~ThreadEnd() {
    memory.clear();
    thread_memory = &no_memory;
    ended_memory = &memory;
  }
};

[[gnu::noinline]] ThreadMemory& register_thread() {
  if (ended_memory != nullptr) return *ended_memory;
  Registry& all = registry();
  {
    const std::lock_guard lock(all.mutex);
    thread_memory = &all.threads.emplace_back();
  }
  thread_local const ThreadEnd end{*thread_memory};
  return *thread_memory;
}

ThreadMemory& this_thread() {
  if (thread_memory == &no_memory) [[unlikely]]
    return register_thread();
  return *thread_memory;
}

Buffer* count_handed_out(ThreadMemory& memory, Buffer* block) {
  const MemoryKind kind = current_kind;
  block->kind = kind;
  ThreadMemory::add(memory.allocations, 1);
  memory.count_new(kind, static_cast<std::int64_t>(block->capacity));
  return block;
}

// What free() seldom meets: a phantom, a thread that had no block yet or ends, a sanitizer.
[[gnu::noinline]] void free_seldom(Buffer* block) {
  ThreadMemory& memory = this_thread();
  const auto size = static_cast<std::int64_t>(block->capacity);
  memory.count(block->kind, -size);
  if (block->phantom) {
    ThreadMemory::add(memory.unreal, -size);
    block->~Buffer();
    std::free(block);
  } else if (caching && ended_memory == nullptr) {
    block->next = std::exchange(memory.free[block->size_class], block);
  } else {
    give_back(block);
  }
}

// Out of line, so that the usual way of allocate() saves no registers.
[[gnu::noinline]] Buffer* system_block(std::size_t bytes) {
  if (bytes > largest) throw MemoryError(bytes);
  const int size_class = class_of(bytes);
  const std::size_t capacity = class_bytes(size_class);
  ThreadMemory& memory = this_thread();
  void* place = ask_system(capacity);
  if (place == nullptr) {
    memory.clear();
    place = ask_system(capacity);
  }
  if (place == nullptr) throw MemoryError(bytes);
  auto* const block = new (place) Buffer;
  block->size_class = static_cast<std::uint16_t>(size_class);
  block->capacity = capacity;
  ThreadMemory::add(memory.system, 1);
  return count_handed_out(memory, block);
}

}  // namespace

Buffer* Buffer::allocate(std::size_t bytes) {
  ThreadMemory* const memory = thread_memory;
  Buffer*& first = memory->free[class_of(bytes)];
  Buffer* const block = first;
  if (block == nullptr) [[unlikely]]
    return system_block(bytes);
  first = block->next;
  block->references.store(1, std::memory_order_relaxed);
  return count_handed_out(*memory, block);
}

Buffer* Buffer::allocate_phantom(std::size_t bytes) {
  if (bytes > largest) throw MemoryError(bytes);
  void* const header = std::aligned_alloc(alignof(Buffer), sizeof(Buffer));
  if (header == nullptr) throw MemoryError(bytes);
  auto* const block = new (header) Buffer;
  block->phantom = true;
  block->kind = current_kind;
  block->capacity = class_bytes(class_of(bytes));
  ThreadMemory& memory = this_thread();
  memory.count_new(current_kind, static_cast<std::int64_t>(block->capacity));
  ThreadMemory::add(memory.unreal, static_cast<std::int64_t>(block->capacity));
  return block;
}

void Buffer::free() {
  ThreadMemory* const memory = thread_memory;
  if (!caching || memory == &no_memory || phantom) [[unlikely]]
    return free_seldom(this);
  memory->count(kind, -static_cast<std::int64_t>(capacity));
  Buffer*& first = memory->free[size_class];
  next = first;
  first = this;
}

MemoryError::MemoryError(std::string_view op, Story story)
    : Error(error_message(op,
                          fmt::format("{}{}; {}{}", story.asked, story.by, story.live, story.place),
                          nullptr, "Use a smaller batch or a shorter sequence")),
      story_(std::move(story)) {}

namespace {

std::string live_memory() {
  const MemoryStats stats = memory_stats();
  const std::string limit =
      memory_limit() > 0 ? fmt::format(", limit {}", memory_limit()) : ", no limit set";
  return fmt::format("{} live (values {}, gradients {}, parameters {}, optimizer {}){}", stats.live,
                     stats.live_by_kind[0], stats.live_by_kind[1], stats.live_by_kind[2],
                     stats.live_by_kind[3], limit);
}

}  // namespace

MemoryError::MemoryError(std::size_t bytes)
    : MemoryError("memory", {.asked = fmt::format("{} bytes asked", bytes),
                             .by = {},
                             .live = live_memory(),
                             .place = {}}) {}

MemoryError::MemoryError(const MemoryError& inside, std::string_view op, std::string_view operands,
                         const Where& where)
    : MemoryError(op, [&] {
        Story story = inside.story_;
        if (story.by.empty()) story.by = fmt::format(" by {} of {}", op, operands);
        if (where.line() != 0) {
          const std::string_view path = where.file_name();
          story.place =
              fmt::format(" ({}:{})", path.substr(path.find_last_of('/') + 1), where.line());
        }
        return story;
      }()) {}

void set_memory_limit(std::int64_t bytes) {
  if (bytes < 0)
    fail("memory", fmt::format("a limit of {} bytes", bytes), "It is at least 0, which is none");
  most_held.store(bytes == 0 ? unlimited : bytes, std::memory_order_relaxed);
  if (bytes != 0) release_cached_memory();
}

std::int64_t memory_limit() {
  const std::int64_t bytes = most_held.load(std::memory_order_relaxed);
  return bytes == unlimited ? 0 : bytes;
}

MemoryStats memory_stats() {
  MemoryStats stats;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  stats.cached = held;  // all blocks,
  for (const ThreadMemory& one : all.threads) {
    stats.live += one.live;
    stats.peak += one.peak;
    stats.cached += one.unreal - one.live;  // less what is in use
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

namespace detail {

std::int64_t thread_peak() { return this_thread().peak.load(std::memory_order_relaxed); }
void set_thread_peak(std::int64_t bytes) { this_thread().peak.store(bytes); }
std::int64_t thread_live() { return this_thread().live.load(std::memory_order_relaxed); }

void count_buffer(const Buffer& buffer, bool counted) {
  const auto size = static_cast<std::int64_t>(buffer.capacity);
  ThreadMemory& memory = this_thread();
  memory.count(buffer.kind, counted ? size : -size);
  ThreadMemory::add(memory.unreal, counted ? size : -size);
}

}  // namespace detail

void release_cached_memory() { this_thread().clear(); }

MemoryScope::MemoryScope(MemoryKind kind) : previous_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = previous_; }

}  // namespace unroll
