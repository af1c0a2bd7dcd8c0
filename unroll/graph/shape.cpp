#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unroll/graph/error.h>
#include <unroll/graph/shape.h>

#include <algorithm>

namespace unroll {

const char* to_string(DType type) {
  switch (type) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
  }
  return "?";
}

Shape::Shape(std::span<const std::int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  if (sizes.size() > max_rank)
    fail_shape("shape", fmt::format("{} axes; at most {} are supported", sizes.size(), max_rank));
  for (std::int64_t size : sizes)
    if (size < 0) fail_shape("shape", fmt::format("negative size in [{}]", fmt::join(sizes, ", ")));
  std::copy(sizes.begin(), sizes.end(), sizes_);
}

void Shape::fail_axis(int axis) const {
  fail_shape("shape", fmt::format("axis {} of a shape {}", axis, to_string(*this)));
}

Shape Shape::without(int axis) const {
  Shape result = *this;
  const int index = axis_index(axis);
  std::copy(sizes_ + index + 1, sizes_ + rank_, result.sizes_ + index);
  --result.rank_;
  return result;
}

Shape Shape::with(int axis, std::int64_t size) const {
  Shape result = *this;
  result[axis] = size;
  return result;
}

Shape Shape::inserted(int axis, std::int64_t size) const {
  if (axis < 0 || axis > rank_ || rank_ == max_rank)
    fail_shape("shape", fmt::format("cannot insert axis {} into {}", axis, to_string(*this)));
  Shape result = *this;
  std::copy_backward(sizes_ + axis, sizes_ + rank_, result.sizes_ + rank_ + 1);
  result.sizes_[axis] = size;
  ++result.rank_;
  return result;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Shape broadcast(const char* op, const Shape& a, const Shape& b) {
  if (a == b) return a;
  Shape result = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  for (int i = 1; i <= shorter.rank(); ++i) {
    std::int64_t& size = result[-i];
    const std::int64_t other = shorter[-i];
    if (size == 1) {
      size = other;
    } else if (other != 1 && other != size) {
      fail_shape(op, fmt::format("shapes {} and {} do not broadcast", to_string(a), to_string(b)),
                 "Axes are aligned from the last; each pair must be equal or have a 1");
    }
  }
  return result;
}

}  // namespace unroll
