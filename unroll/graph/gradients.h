#pragma once

#include <unroll/graph/chunked.h>
#include <unroll/graph/tensor.h>

#include <cstdint>
#include <utility>

namespace unroll {

/// The gradients of a tape's values while it is walked back. Few live at a time: they lie in places
/// that are used again and again, and so stay in the cache.
class Gradients {
 public:
  /// Of that many values, none yet.
  explicit Gradients(std::size_t values) : places_(values) { free_[free_count_++] = free_place(); }

  /// Of one value: undefined where none has arrived.
  const Tensor& operator[](std::uint32_t value) const {
    return places_[value] == nullptr ? none_ : *places_[value];
  }
  /// A place to put it.
  Tensor& at(std::uint32_t value) {
    if (places_[value] == nullptr) places_[value] = free_place();
    return *places_[value];
  }
  /// Of a value that has none: what lies at `place`, for which the caller gets another place.
  /// False where the value has one.
  bool put(std::uint32_t value, Tensor*& place) {
    Tensor*& own = places_[value];
    if (own == nullptr) {
      own = std::exchange(place, free_place());
    } else if (!own->defined()) {
      std::swap(own, place);
    } else {
      return false;
    }
    return true;
  }
  /// A place of nobody's.
  Tensor* free_place() { return free_count_ > 0 ? free_[--free_count_] : new_place(); }
  /// The value has none any longer; `place` is what at() gave for it, or one put in its stead.
  void drop(std::uint32_t value, Tensor* place) {
    places_[value] = nullptr;
    place->reset();
    free_[free_count_++] = place;
  }

 private:
  // Out of line, as it is seldom met.
  [[gnu::noinline]] Tensor* new_place() {
    free_.resize(all_.size() + 1);  // room for them all: drop() cannot fail
    return &all_.emplace_back();
  }

  CachedVector<Tensor*> places_;  // by value
  Chunked<Tensor> all_;
  CachedVector<Tensor*> free_;
  std::size_t free_count_ = 0;
  Tensor none_;
};

}  // namespace unroll
