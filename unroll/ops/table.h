#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/tensor.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace unroll {

/// One way to call an op: what it is tested, timed and documented with.
struct OpSample {
  /// Inputs in f64 (and index dtypes), away from kinks. Tests also run them cast to f32.
  std::function<std::vector<Tensor>(Generator&)> inputs;
  std::function<std::vector<Tensor>(std::span<const Tensor>)> call;
  /// Which inputs to differentiate by; empty: every floating one. An op without a gradient says
  /// differentiable = false in its entry instead.
  std::vector<std::size_t> wrt = {};
};

/// An op's row in the table. Static objects `const RegisterOp row{{...}}` beside the records fill
/// it, so that tests, the op benchmark and docs/ops.md meet every op.
struct OpEntry {
  std::string name;
  std::string signature;
  std::string summary;
  std::vector<OpSample> samples;
  /// Calls that must throw ShapeError.
  std::vector<std::function<void()>> wrong = {};
  bool differentiable = true;
  /// May gradients of gradients be taken (every vjp on the way is written in ops)?
  bool twice = true;
  /// Relative f32 error allowed, in units of f32 epsilon times the longest sum.
  double f32_error = 64;
};

class RegisterOp {
 public:
  explicit RegisterOp(OpEntry entry);
};

/// Every registered op, by name.
std::vector<const OpEntry*> op_table();

}  // namespace unroll
