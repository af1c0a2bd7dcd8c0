#pragma once

#include <unroll/layers/module.h>
#include <unroll/ops/norm.h>

namespace unroll {

struct NormOptions {
  std::int64_t size = 0;  ///< of the last axis
  double eps = 1e-5;
  bool bias = true;  ///< LayerNorm only
};

/// (x - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba, Kiros, Hinton, 2016).
class LayerNorm : public Module {
 public:
  Parameter weight, bias;

  explicit LayerNorm(const NormOptions& options);
  explicit LayerNorm(std::int64_t size) : LayerNorm(NormOptions{.size = size}) {}
  Tensor operator()(const Tensor& x, Where where = Where::current()) const;
  /// x + added and its norm, in one pass.
  ResidualNorm operator()(const Tensor& x, const Tensor& added,
                          Where where = Where::current()) const;
  std::string describe() const override;

 private:
  double eps_;
};

/// x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang, Sennrich, 2019).
class RMSNorm : public Module {
 public:
  Parameter weight;

  explicit RMSNorm(const NormOptions& options);
  explicit RMSNorm(std::int64_t size) : RMSNorm(NormOptions{.size = size}) {}
  Tensor operator()(const Tensor& x, Where where = Where::current()) const;
  /// x + added and its norm, in one pass.
  ResidualNorm operator()(const Tensor& x, const Tensor& added,
                          Where where = Where::current()) const;
  std::string describe() const override;

 private:
  double eps_;
};

}  // namespace unroll
