#pragma once

#include <unroll/graph/memory.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace unroll {

/// A sequence that grows and shrinks at its end, and whose elements never move: they lie in cached
/// blocks of a fixed number.
template <class T>
class Chunked {
 public:
  Chunked() = default;
  Chunked(const Chunked&) = delete;
  Chunked& operator=(const Chunked&) = delete;
  ~Chunked() {
    resize(0);
    for (T* chunk : chunks_) CachedAllocator<T>().deallocate(chunk, per_chunk);
  }

  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return chunks_[i / per_chunk][i % per_chunk]; }
  const T& operator[](std::size_t i) const { return chunks_[i / per_chunk][i % per_chunk]; }
  T& back() { return (*this)[size_ - 1]; }

  template <class... Args>
  T& emplace_back(Args&&... args) {
    if (next_ == end_) [[unlikely]]
      begin_chunk();
    fetch_ahead(next_, 4 * sizeof(T));
    if constexpr (sizeof(T) > 64) fetch_ahead(next_, 4 * sizeof(T) + 64);
    new (next_) T{std::forward<Args>(args)...};
    ++size_;
    return *next_++;
  }
  /// Destroys the elements from `size` on.
  void resize(std::size_t size) {
    if (size >= size_) return;
    while (size_ > size) {
      const std::size_t begin = std::max(size, (size_ - 1) / per_chunk * per_chunk);
      std::destroy_n(&(*this)[begin], size_ - begin);
      size_ = begin;
    }
    end_ = chunks_[size_ / per_chunk] + per_chunk;
    next_ = end_ - per_chunk + size_ % per_chunk;
  }

 private:
  [[gnu::noinline]] void begin_chunk() {
    const std::size_t chunk = size_ / per_chunk;
    if (chunk == chunks_.size()) {
      chunks_.push_back(nullptr);  // first: if that fails, no chunk is lost
      try {
        chunks_.back() = CachedAllocator<T>().allocate(per_chunk);
      } catch (...) {
        chunks_.pop_back();
        throw;
      }
    }
    next_ = chunks_[chunk];
    end_ = next_ + per_chunk;
  }

  static constexpr std::size_t per_chunk = 128;
  CachedVector<T*> chunks_;
  std::size_t size_ = 0;
  T *next_ = nullptr, *end_ = nullptr;  // where the next one goes, and the end of its chunk
};

}  // namespace unroll
