#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace unroll {

enum class DType : std::uint8_t { f32, f64, bf16, i32, i64, u8 };

constexpr std::int64_t size_of(DType type) {
  switch (type) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

const char* to_string(DType type);

constexpr bool is_float(DType type) { return type == DType::f32 || type == DType::f64; }

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::u8;
}

/// Sizes of the axes, outermost first; lives on the stack. A scalar has rank 0.
class Shape {
 public:
  static constexpr int max_rank = 6;

  // Most shapes have two axes or one: the others are written and copied where they exist.
  Shape() {}  // NOLINT(modernize-use-equals-default): that would write the sizes
  Shape(const Shape& other) { *this = other; }
  // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): copying a size onto itself is harmless
  Shape& operator=(const Shape& other) {
    rank_ = other.rank_;
    if (rank_ > 0) sizes_[0] = other.sizes_[0];
    if (rank_ > 1) sizes_[1] = other.sizes_[1];
    if (rank_ > 2) [[unlikely]]
      std::copy(other.sizes_ + 2, other.sizes_ + rank_, sizes_ + 2);
    return *this;
  }
  Shape(std::initializer_list<std::int64_t> sizes)
      : Shape(std::span<const std::int64_t>(sizes.begin(), sizes.size())) {}
  /// Throws ShapeError for more than max_rank axes or a negative size.
  explicit Shape(std::span<const std::int64_t> sizes);

  int rank() const { return rank_; }
  /// Negative axes count from the end. Throws ShapeError for an axis that is not there.
  std::int64_t operator[](int axis) const { return sizes_[axis_index(axis)]; }
  std::int64_t& operator[](int axis) { return sizes_[axis_index(axis)]; }
  /// The axis as an index from 0 to rank - 1.
  int axis_index(int axis) const {
    const int index = axis < 0 ? axis + rank_ : axis;
    if (index < 0 || index >= rank_) fail_axis(axis);
    return index;
  }
  std::int64_t numel() const {
    std::int64_t product = 1;
    for (int i = 0; i < rank_; ++i) product *= sizes_[i];
    return product;
  }
  const std::int64_t* begin() const { return sizes_; }
  const std::int64_t* end() const { return sizes_ + rank_; }

  Shape without(int axis) const;
  Shape with(int axis, std::int64_t size) const;
  /// A new axis of `size` before `axis`; rank() appends.
  Shape inserted(int axis, std::int64_t size) const;

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a.sizes_[i] != b.sizes_[i]) return false;
    return true;
  }

 private:
  [[noreturn]] void fail_axis(int axis) const;

  int rank_ = 0;  // first: with the first sizes it lies in one line of the cache
  std::int64_t sizes_[max_rank];
};

/// "[32, 64]"
std::string to_string(const Shape& shape);

/// What an op's result is before it has been computed.
struct Spec {
  Shape shape;
  DType dtype = DType::f32;
};

/// The shape both broadcast to (NumPy's rule). Throws ShapeError naming `op`.
Shape broadcast(const char* op, const Shape& a, const Shape& b);

}  // namespace unroll
