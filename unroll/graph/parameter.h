#pragma once

#include <unroll/graph/tensor.h>

#include <memory>
#include <string>
#include <utility>

namespace unroll {

/// What a Parameter's handles share.
struct ParameterState {
  Tensor value;
  Tensor grad;  ///< undefined until a backward pass reaches the parameter
  bool trainable = true;
  std::uint64_t version = 0;  ///< grows with every change of the value
};

/// A trained tensor. It lives outside any tape; copies are handles on the same parameter. Using
/// one where a Tensor is expected records it on the current tape, and Tape::backward adds its
/// gradient here.
class Parameter {
 public:
  Parameter() = default;
  explicit Parameter(const Tensor& initial);
  /// Another handle on the parameter behind this state.
  explicit Parameter(std::shared_ptr<ParameterState> state) : state_(std::move(state)) {}

  bool defined() const { return state_ != nullptr; }
  /// The value as a constant.
  const Tensor& value() const { return state_->value; }
  const Tensor& grad() const { return state_->grad; }
  const Shape& shape() const { return state_->value.shape(); }
  std::int64_t numel() const { return state_->value.numel(); }
  DType dtype() const { return state_->value.dtype(); }
  bool trainable() const { return state_->trainable; }
  /// A parameter that is not trainable is a constant: no gradient is computed for it.
  void set_trainable(bool trainable) { state_->trainable = trainable; }

  /// Copies `value` in. Throws ShapeError for another shape; a value of another float dtype
  /// replaces the storage.
  void set_value(const Tensor& value);
  void zero_grad();
  void set_grad(const Tensor& grad) { state_->grad = grad; }
  /// For optimizers: the elements, to be changed in place. A tape that still holds the old value
  /// keeps it, since the storage is copied first where somebody else refers to it.
  Tensor& mutable_value();

  /// The value, recorded on the current tape if there is one.
  operator Tensor() const;  // NOLINT: meant to convert

  /// Two handles on one parameter (tied weights) have the same identity.
  const ParameterState* id() const { return state_.get(); }
  const std::shared_ptr<ParameterState>& state() const { return state_; }

 private:
  std::shared_ptr<ParameterState> state_;
};

}  // namespace unroll
