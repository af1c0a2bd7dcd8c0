#include <fmt/format.h>
#include <unroll/graph/tensor.h>

#include <algorithm>
#include <cstring>

namespace unroll {
namespace {

// Calls f with a typed pointer to the elements, for every dtype that holds plain numbers.
template <class F>
void with_number(const char* op, DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::i32:
      return f(std::int32_t{});
    case DType::i64:
      return f(std::int64_t{});
    case DType::u8:
      return f(std::uint8_t{});
    case DType::bf16:
      break;
  }
  fail(op, fmt::format("not available for {}", to_string(dtype)));
}

// Sizes may come from a file or a user: their product must not wrap around to a small number.
std::size_t bytes_of(const Shape& shape, DType dtype) {
  auto bytes = static_cast<std::size_t>(size_of(dtype));
  for (std::int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes))
      fail_shape("memory", fmt::format("{} {} is larger than any memory", to_string(dtype),
                                       to_string(shape)));
  }
  return bytes;
}

}  // namespace

Buffer* Tensor::allocate(const Shape& shape, DType dtype) {
  const std::size_t bytes = bytes_of(shape, dtype);
  return detail::dry ? Buffer::allocate_phantom(bytes) : Buffer::allocate(bytes);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype) {
  Tensor result = empty(shape, dtype);
  if (result.is_abstract()) return result;
  std::memset(result.data_, 0, static_cast<std::size_t>(shape.numel() * size_of(dtype)));
  return result;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype) {
  Tensor result = empty(shape, dtype);
  if (result.is_abstract()) return result;
  with_number("full", dtype, [&](auto zero) {
    using T = decltype(zero);
    std::fill_n(result.mutable_ptr<T>(), shape.numel(), static_cast<T>(value));
  });
  return result;
}

Tensor Tensor::borrowed(std::byte* data, const Spec& spec) {
  Tensor result = abstract(spec.shape, spec.dtype);
  result.data_ = data;
  return result;
}

double Tensor::item() const {
  if (numel() != 1)
    fail_shape("item", fmt::format("one element expected, got {}", to_string(*this)));
  double value = 0;
  with_number("item", dtype_, [&](auto zero) {
    using T = decltype(zero);
    value = static_cast<double>(data<T>()[0]);
  });
  return value;
}

Tensor Tensor::viewed(const Shape& shape) const {
  if (shape.numel() != numel())
    fail_shape("reshape", fmt::format("{} has {} elements, {} has {}", to_string(shape_), numel(),
                                      to_string(shape), shape.numel()));
  Tensor result = *this;
  result.shape_ = shape;
  result.ref_ = {};
  return result;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  if (rank() == 0 || begin < 0 || end < begin || end > shape_[0])
    fail_shape("rows", fmt::format("rows {} to {} of {}", begin, end, to_string(*this)));
  Tensor result = *this;
  if (data_ != nullptr && shape_[0] > 0)
    result.data_ += begin * (numel() / shape_[0]) * size_of(dtype_);
  result.shape_[0] = end - begin;
  result.ref_ = {};
  return result;
}

Tensor Tensor::row(std::int64_t i) const {
  Tensor result = rows(i, i + 1);
  result.shape_ = shape_.without(0);
  return result;
}

Tensor Tensor::clone() const {
  if (is_abstract() && !detail::dry) return abstract(shape_, dtype_);
  Tensor result = empty(shape_, dtype_);
  if (result.is_abstract()) return result;
  std::memcpy(result.data_, data_, static_cast<std::size_t>(numel() * size_of(dtype_)));
  return result;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  if (is_abstract() && !detail::dry) return abstract(shape_, dtype);
  Tensor result = empty(shape_, dtype);
  if (result.is_abstract()) return result;
  with_number("to", dtype_, [&](auto from) {
    with_number("to", dtype, [&](auto into) {
      using From = decltype(from);
      using Into = decltype(into);
      std::transform(ptr<From>(), ptr<From>() + numel(), result.mutable_ptr<Into>(),
                     [](From x) { return static_cast<Into>(x); });
    });
  });
  return result;
}

void Tensor::fail_access(DType wanted) const {
  if (!defined_) fail("tensor", "read of an undefined tensor");
  if (dtype_ != wanted)
    fail("tensor", fmt::format("{} read as {}", to_string(*this), to_string(wanted)));
  if (detail::dry)
    fail("dry run", fmt::format("the data of {} was read in a dry run", to_string(*this)),
         "It runs on shapes alone: read losses and the like outside of it");
  fail("trace", fmt::format("the data of {} was read while tracing", to_string(*this)),
       "A traced function runs on shapes alone, so its data cannot steer it; use where() instead "
       "of a branch");
}

std::string to_string(const Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  return fmt::format("{} {}", to_string(tensor.dtype()), to_string(tensor.shape()));
}

}  // namespace unroll
