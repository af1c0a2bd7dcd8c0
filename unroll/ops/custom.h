#pragma once

#include <unroll/graph/tensor.h>

#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

namespace unroll {

using Tensors = std::vector<Tensor>;

/// An op made of functions, for when a record class (graph/op.h) would be too much ceremony.
struct CustomOp {
  std::string name = "custom";
  /// inputs -> outputs. Reads data, or is composed of other ops; it is not recorded.
  std::function<Tensors(std::span<const Tensor> inputs)> forward;
  /// Gradients of the outputs -> gradients of the inputs, undefined for none. Where it is composed
  /// of ops, gradients of gradients work. Without it the op has no gradient.
  std::function<Tensors(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                        std::span<const Tensor> grads)>
      vjp = {};
  /// Shapes of the outputs, needed inside scan() where forward reads data.
  std::function<std::vector<Spec>(std::span<const Tensor> inputs)> infer = {};
  int outputs = 1;
  /// The leading axis is rows that are treated one by one: scan() may run all steps at once.
  bool rows = false;
};

/// Runs `op` and records it. See docs/extending.md.
Tensors apply(const CustomOp& op, std::span<const Tensor> inputs, Where where = Where::current());

/// An op with one result from two functions:
/// `custom_op("cube", {x}, [](auto in) { ... }, [](auto in, auto out, auto grads) { ... })`.
Tensor custom_op(std::string name, std::initializer_list<Tensor> inputs,
                 std::function<Tensor(std::span<const Tensor>)> forward,
                 std::function<Tensors(std::span<const Tensor>, std::span<const Tensor>,
                                       std::span<const Tensor>)>
                     vjp,
                 Where where = Where::current());

/// A composition with a gradient of its own in place of the derived one: for a cheaper or stabler
/// formula, or one that is no derivative at all (straight-through, gradient reversal).
inline Tensor custom_vjp(std::function<Tensor(std::span<const Tensor>)> f,
                         std::function<Tensors(std::span<const Tensor>, std::span<const Tensor>,
                                               std::span<const Tensor>)>
                             vjp,
                         std::initializer_list<Tensor> inputs, Where where = Where::current()) {
  return custom_op("custom_vjp", inputs, std::move(f), std::move(vjp), where);
}

}  // namespace unroll
