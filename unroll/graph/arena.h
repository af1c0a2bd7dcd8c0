#pragma once

#include <unroll/graph/memory.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

namespace unroll {

/// Bump allocation in cached blocks: objects die together, in reverse order, at rewind or clear.
class Arena {
 public:
  struct Mark {
    std::size_t block = 0, used = 0, owned = 0;
  };

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    rewind({});
    for (Block& block : blocks_) block.buffer->release();
  }

  /// n value-initialised objects.
  template <class T>
  T* make_array(std::size_t n) {
    T* first = static_cast<T*>(allocate(n * sizeof(T), alignof(T)));
    if constexpr (!std::is_trivially_destructible_v<T>) make_room();
    std::uninitialized_value_construct_n(first, n);
    if constexpr (!std::is_trivially_destructible_v<T>)
      owned_.push_back({first, n, [](void* p, std::size_t count) {
                          std::destroy_n(static_cast<T*>(p), count);
                        }});
    return first;
  }

  /// Room for plain objects, not yet written, aligned for pointers and numbers.
  void* room(std::size_t bytes) { return allocate(bytes, alignof(void*)); }
  /// The latest room is not needed after all.
  void take_back(void* room) { next_ = static_cast<std::byte*>(room); }

  template <class T>
  T* make(const T& value) {
    return emplace<T>(value);
  }
  template <class T, class... Args>
  T* emplace(Args&&... args) {
    void* const memory = allocate(sizeof(T), alignof(T));
    if constexpr (!std::is_trivially_destructible_v<T>) make_room();
    T* object = new (memory) T(std::forward<Args>(args)...);
    if constexpr (!std::is_trivially_destructible_v<T>)
      owned_.push_back({object, 1, [](void* p, std::size_t) { static_cast<T*>(p)->~T(); }});
    return object;
  }

  Mark mark() const {
    const std::size_t used =
        blocks_.empty() ? 0 : static_cast<std::size_t>(next_ - blocks_[current_].buffer->data());
    return {current_, used, owned_.size()};
  }
  void rewind(const Mark& mark) {
    while (owned_.size() > mark.owned) {
      owned_.back().destroy(owned_.back().object, owned_.back().count);
      owned_.pop_back();
    }
    go_to(mark.block, mark.used);
  }

 private:
  struct Block {
    Buffer* buffer;
    std::size_t size;
  };
  struct Owned {
    void* object;
    std::size_t count;
    void (*destroy)(void*, std::size_t);
  };

  // Ahead of what is to be owned: if that fails, nothing has been made that nobody destroys.
  void make_room() {
    if (owned_.size() == owned_.capacity()) owned_.reserve(owned_.empty() ? 8 : 2 * owned_.size());
  }

  void* allocate(std::size_t bytes, std::size_t alignment) {
    while (true) {
      const std::size_t skipped = -reinterpret_cast<std::uintptr_t>(next_) & (alignment - 1);
      if (skipped + bytes <= static_cast<std::size_t>(end_ - next_)) [[likely]] {
        fetch_ahead(next_, 256);
        std::byte* const place = next_ + skipped;
        next_ = place + bytes;
        return place;
      }
      begin_block(bytes);
    }
  }

  // The next block; a new one where there is none.
  [[gnu::noinline]] void begin_block(std::size_t bytes) {
    if (current_ + 1 < blocks_.size()) return go_to(current_ + 1, 0);
    constexpr std::size_t block_bytes = 64 * 1024;
    const std::size_t size = bytes > block_bytes ? bytes : block_bytes;
    blocks_.push_back({nullptr, size});  // first: if that fails, no block is lost
    try {
      blocks_.back().buffer = Buffer::allocate(size);
    } catch (...) {
      blocks_.pop_back();
      throw;
    }
    go_to(blocks_.size() - 1, 0);
  }
  void go_to(std::size_t block, std::size_t used) {
    current_ = block;
    if (blocks_.empty()) return;
    next_ = blocks_[block].buffer->data() + used;
    end_ = blocks_[block].buffer->data() + blocks_[block].size;
  }

  CachedVector<Block> blocks_;
  CachedVector<Owned> owned_;
  std::size_t current_ = 0;  // the block that objects go to
  std::byte *next_ = nullptr, *end_ = nullptr;
};

}  // namespace unroll
