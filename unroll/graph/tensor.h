#pragma once

#include <unroll/graph/error.h>
#include <unroll/graph/memory.h>
#include <unroll/graph/shape.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace unroll {

/// Where on which tape a tensor was recorded; a default one means "a constant".
class TapeRef {
 public:
  TapeRef() = default;
  TapeRef(std::uint64_t tape, std::uint32_t value, std::uint32_t serial)
      : tape_(tape), place_(std::uint64_t{serial} << 32 | value) {}
  // Word by word, as they are written: a load of both would wait for two stores to end, at every
  // recorded op. For the same reason value and serial are one word.
  TapeRef(const TapeRef& other) : tape_(other.tape_), place_(other.place_) {}
  // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): copying a word onto itself is harmless
  TapeRef& operator=(const TapeRef& other) {
    tape_ = other.tape_;
    place_ = other.place_;
    return *this;
  }

  std::uint64_t tape() const { return tape_; }
  std::uint32_t value() const { return static_cast<std::uint32_t>(place_); }
  /// Tells values apart that had one place, before and after a rewind.
  std::uint32_t serial() const { return static_cast<std::uint32_t>(place_ >> 32); }

 private:
  std::uint64_t tape_ = 0, place_ = 0;
};

/// An immutable handle on a row-major array in a shared buffer. Copying a Tensor copies the
/// handle. A tensor is undefined (no shape), abstract (a shape without data, met while a function
/// is traced and in a dry run) or has data.
class Tensor {
 public:
  Tensor() = default;
  Tensor(const Tensor& other)
      : buffer_(other.buffer_),
        data_(other.data_),
        ref_(other.ref_),
        dtype_(other.dtype_),
        defined_(other.defined_),
        shape_(other.shape_) {
    if (buffer_ != nullptr) buffer_->retain();
  }
  Tensor(Tensor&& other) noexcept
      : buffer_(std::exchange(other.buffer_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        ref_(other.ref_),
        dtype_(other.dtype_),
        defined_(std::exchange(other.defined_, false)),
        shape_(other.shape_) {}
  Tensor& operator=(const Tensor& other) { return *this = Tensor(other); }
  Tensor& operator=(Tensor&& other) noexcept {
    Buffer* const before = std::exchange(buffer_, std::exchange(other.buffer_, nullptr));
    data_ = std::exchange(other.data_, nullptr);
    shape_ = other.shape_;
    ref_ = other.ref_;
    dtype_ = other.dtype_;
    defined_ = std::exchange(other.defined_, false);
    if (before != nullptr) before->release();
    return *this;
  }
  ~Tensor() {
    if (buffer_ != nullptr) buffer_->release();
  }

  /// Memory not yet written: for kernels.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32) {
    Tensor result;
    result.make_empty(shape, dtype);
    return result;
  }
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32);
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32);
  /// A shape without data.
  static Tensor abstract(const Shape& shape, DType dtype) {
    Tensor result;
    result.shape_ = shape;
    result.dtype_ = dtype;
    result.defined_ = true;
    return result;
  }
  /// Memory of somebody else, who keeps it longer than this tensor and its copies live.
  static Tensor borrowed(std::byte* data, const Spec& spec);
  bool borrows() const { return buffer_ == nullptr && data_ != nullptr; }
  /// A copy of `values`, which must be as many as `shape` has elements.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape);
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  template <class T>
  static Tensor from(std::initializer_list<T> values, const Shape& shape) {
    return from(std::span<const T>(values.begin(), values.size()), shape);
  }

  bool defined() const { return defined_; }
  bool is_abstract() const { return defined_ && data_ == nullptr; }
  /// Abstract, and yet its memory is counted: see DryRun.
  bool is_phantom() const { return buffer_ != nullptr && data_ == nullptr; }
  const Shape& shape() const { return shape_; }
  std::int64_t size(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  std::int64_t numel() const { return shape_.numel(); }
  DType dtype() const { return dtype_; }
  Spec spec() const { return {shape_, dtype_}; }

  /// The elements. Throws Error for another dtype, and for an abstract tensor (data cannot decide
  /// anything while a function is traced). A temporary has none to give: the span would outlive it,
  /// in `for (float v : f(x).data<float>())` for instance.
  template <class T>
  std::span<const T> data() const& {
    check_access(dtype_of<T>());
    return {reinterpret_cast<const T*>(data_), static_cast<std::size_t>(numel())};
  }
  template <class T>
  std::span<const T> data() const&& = delete;
  /// For kernels that fill a tensor nobody else can read yet, and for optimizers.
  template <class T>
  std::span<T> mutable_data() & {
    check_access(dtype_of<T>());
    return {reinterpret_cast<T*>(data_), static_cast<std::size_t>(numel())};
  }
  /// Unchecked access for kernels.
  template <class T>
  const T* ptr() const& {
    return reinterpret_cast<const T*>(data_);
  }
  template <class T>
  const T* ptr() const&& = delete;
  template <class T>
  T* mutable_ptr() & {
    return reinterpret_cast<T*>(data_);
  }
  std::byte* bytes() { return data_; }
  const std::byte* bytes() const { return data_; }

  /// The value of a tensor with one element, whatever its dtype. Throws for any other size.
  double item() const;

  /// The same elements in another shape: shares the buffer, records nothing (see ops' reshape).
  Tensor viewed(const Shape& shape) const;
  /// Rows begin to end of the leading axis: shares the buffer, records nothing (see ops' slice).
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  /// Row i of the leading axis, that axis gone.
  Tensor row(std::int64_t i) const;
  /// A copy in a buffer of its own, not recorded.
  Tensor clone() const;
  /// The same elements in another dtype, copied where they differ, not recorded.
  Tensor to(DType dtype) const;
  /// The same value as a constant: no gradient flows through it.
  Tensor detach() const {
    Tensor copy = *this;
    copy.ref_ = {};
    return copy;
  }

  /// Becomes empty(shape, dtype), where it is: the result of an op has its place already. Memory
  /// that fits and that nobody else holds it keeps, and what stands there.
  void make_empty(const Shape& shape, DType dtype) {
    if (keeps_memory(shape, dtype)) return set_ref({});
    Buffer* const buffer = allocate(shape, dtype);
    become(buffer, buffer->phantom ? nullptr : buffer->data(), shape, dtype);
  }
  /// The same where the shape's elements are counted already, outside of a dry run.
  void make_empty(const Shape& shape, DType dtype, std::int64_t count) {
    if (keeps_memory(shape, dtype)) return set_ref({});
    Buffer* const buffer = Buffer::allocate(static_cast<std::size_t>(count * size_of(dtype)));
    become(buffer, buffer->data(), shape, dtype);
  }

  /// Lets go of the data: what stays is abstract.
  void drop_data() {
    if (buffer_ != nullptr) std::exchange(buffer_, nullptr)->release();
    data_ = nullptr;
  }

  /// Becomes undefined.
  void reset() {
    drop_data();
    defined_ = false;
  }

  /// No other handle refers to the buffer.
  bool unique() const {
    return buffer_ != nullptr && buffer_->references.load(std::memory_order_acquire) == 1;
  }
  /// The block behind it, or nullptr.
  const Buffer* buffer() const { return buffer_; }
  const TapeRef& ref() const { return ref_; }
  void set_ref(TapeRef ref) { ref_ = ref; }

 private:
  /// A block for the elements; a phantom in a dry run.
  static Buffer* allocate(const Shape& shape, DType dtype);
  bool keeps_memory(const Shape& shape, DType dtype) const {
    return unique() && (data_ != nullptr || detail::dry) && dtype_ == dtype && shape_ == shape;
  }
  void become(Buffer* buffer, std::byte* data, const Shape& shape, DType dtype) {
    Buffer* const before = std::exchange(buffer_, buffer);
    data_ = data;
    shape_ = shape;
    ref_ = {};
    dtype_ = dtype;
    defined_ = true;
    if (before != nullptr) before->release();
  }
  void check_access(DType wanted) const {
    if (!defined_ || dtype_ != wanted || (data_ == nullptr)) fail_access(wanted);
  }
  [[noreturn]] void fail_access(DType wanted) const;

  Buffer* buffer_ = nullptr;
  std::byte* data_ = nullptr;
  TapeRef ref_;
  DType dtype_ = DType::f32;
  bool defined_ = false;
  Shape shape_;  // last: of its sizes most are not there
};

/// "f32 [2, 3]"
std::string to_string(const Tensor& tensor);

/// Calls `f` with a value of the element type of a floating dtype: f(float{}) or f(double{}).
/// Throws Error naming `op` for any other dtype.
template <class F>
decltype(auto) with_float(const char* op, DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f64) return f(double{});
  fail(op, std::string("needs f32 or f64, got ") + to_string(dtype));
}

template <class T>
Tensor Tensor::from(std::span<const T> values, const Shape& shape) {
  if (static_cast<std::int64_t>(values.size()) != shape.numel())
    fail_shape("tensor", std::to_string(values.size()) + " values for shape " + to_string(shape));
  Tensor result = empty(shape, dtype_of<T>());
  if (result.is_abstract()) return result;
  std::copy(values.begin(), values.end(), result.mutable_ptr<T>());
  return result;
}

}  // namespace unroll
