#pragma once

#include <unroll/optim/optimizer.h>

#include <array>

namespace unroll {

struct AdamOptions {
  double learning_rate = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};  ///< how much of each running average stays
  double eps = 1e-8;                           ///< added to the root
  double weight_decay = 0;                     ///< added to the gradient
  bool amsgrad = false;                        ///< divides by the largest second moment so far
};

struct AdamWOptions {
  double learning_rate = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 1e-2;  ///< p shrinks by learning_rate * weight_decay at each step
  bool amsgrad = false;
};

/// Adam (Kingma & Ba, "Adam: a method for stochastic optimization", 2015; amsgrad: Reddi et al.,
/// "On the convergence of Adam and beyond", 2018), in PyTorch's form:
///
///     g += weight_decay p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
///     p -= learning_rate m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
///
/// t counts the updates of the parameter itself: one that a step skips does not age.
class Adam : public Optimizer {
 public:
  explicit Adam(const std::vector<ParameterGroup>& groups, const AdamOptions& options = {});
  explicit Adam(std::vector<Parameter> parameters, const AdamOptions& options = {})
      : Adam(std::vector<ParameterGroup>{{std::move(parameters)}}, options) {}

 private:
  void update(const ParameterUpdate& parameter) const override;

  AdamOptions options_;
};

/// Adam with decoupled weight decay (Loshchilov & Hutter, 2019): p *= 1 - learning_rate *
/// weight_decay instead of the gradient's term, so that the decay is not divided by sqrt(v).
class AdamW : public Optimizer {
 public:
  explicit AdamW(const std::vector<ParameterGroup>& groups, const AdamWOptions& options = {});
  explicit AdamW(std::vector<Parameter> parameters, const AdamWOptions& options = {})
      : AdamW(std::vector<ParameterGroup>{{std::move(parameters)}}, options) {}

 private:
  void update(const ParameterUpdate& parameter) const override;

  AdamWOptions options_;
};

}  // namespace unroll
