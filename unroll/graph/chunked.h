#pragma once

#include <unroll/graph/memory.h>

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
    if (size_ == chunks_.size() * per_chunk) [[unlikely]]
      add_chunk();
    T* const place = &(*this)[size_];
    new (place) T{std::forward<Args>(args)...};
    ++size_;
    return *place;
  }
  /// Destroys the elements from `size` on.
  void resize(std::size_t size) {
    while (size_ > size) std::destroy_at(&(*this)[--size_]);
  }

 private:
  void add_chunk() {
    chunks_.push_back(nullptr);  // first: if that fails, no chunk is lost
    try {
      chunks_.back() = CachedAllocator<T>().allocate(per_chunk);
    } catch (...) {
      chunks_.pop_back();
      throw;
    }
  }

  static constexpr std::size_t per_chunk = 128;
  CachedVector<T*> chunks_;
  std::size_t size_ = 0;
};

}  // namespace unroll
