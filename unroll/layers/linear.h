#pragma once

#include <unroll/layers/module.h>
#include <unroll/ops/activation.h>

namespace unroll {

struct LinearOptions {
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
  bool bias = true;
};

/// y = x W^T + b. weight [out, in] and bias [out] start uniform in +-1/sqrt(in), as in PyTorch.
class Linear : public Module {
 public:
  Parameter weight, bias;

  explicit Linear(const LinearOptions& options, GeneratorRef generator = {});
  Linear(std::int64_t in, std::int64_t out, GeneratorRef generator = {})
      : Linear(LinearOptions{in, out}, generator) {}

  /// x [..., in] -> [..., out]. Throws ShapeError for another last axis.
  Tensor operator()(const Tensor& x, Where where = Where::current()) const;
  /// Of activate(f, x): see activated_linear().
  Tensor of_activated(Activation f, const Tensor& x, Where where = Where::current()) const;
  std::string describe() const override;
};

}  // namespace unroll
