#pragma once

#include <unroll/optim/optimizer.h>

namespace unroll {

struct AdagradOptions {
  double learning_rate = 1e-2;
  double learning_rate_decay = 0;  ///< the rate at update t is divided by 1 + (t - 1) * this
  double weight_decay = 0;
  double initial_accumulator_value = 0;
  double eps = 1e-10;  ///< added to the root
};

/// Adagrad (Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and
/// stochastic optimization", 2011), in PyTorch's form:
///
///     g += weight_decay p;  s += g^2;  p -= rate_t g / (sqrt(s) + eps)
class Adagrad : public Optimizer {
 public:
  explicit Adagrad(const std::vector<ParameterGroup>& groups, const AdagradOptions& options = {});
  explicit Adagrad(std::vector<Parameter> parameters, const AdagradOptions& options = {})
      : Adagrad(std::vector<ParameterGroup>{{std::move(parameters)}}, options) {}

 private:
  void update(const ParameterUpdate& parameter) const override;

  AdagradOptions options_;
};

}  // namespace unroll
