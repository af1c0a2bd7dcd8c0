#pragma once

#include <unroll/optim/optimizer.h>

namespace unroll {

struct RMSpropOptions {
  double learning_rate = 1e-2;
  double alpha = 0.99;  ///< how much of the running averages stays at a step
  double eps = 1e-8;    ///< added to the root
  double weight_decay = 0;
  double momentum = 0;    ///< 0 keeps no momentum
  bool centered = false;  ///< divides by the deviation instead of the root mean square
};

/// RMSprop (Tieleman & Hinton, Coursera lecture 6.5, 2012; centered: Graves, "Generating sequences
/// with recurrent neural networks", 2013), in PyTorch's form:
///
///     g += weight_decay p;  s = alpha s + (1 - alpha) g^2;  a = alpha a + (1 - alpha) g
///     d = g / (sqrt(centered ? s - a^2 : s) + eps)
///     b = momentum b + d;  p -= learning_rate (momentum > 0 ? b : d)
class RMSprop : public Optimizer {
 public:
  explicit RMSprop(const std::vector<ParameterGroup>& groups, const RMSpropOptions& options = {});
  explicit RMSprop(std::vector<Parameter> parameters, const RMSpropOptions& options = {})
      : RMSprop(std::vector<ParameterGroup>{{std::move(parameters)}}, options) {}

 private:
  template <bool centered, bool momentum>
  void update_as(const ParameterUpdate& parameter) const;
  void update(const ParameterUpdate& parameter) const override;

  RMSpropOptions options_;
};

}  // namespace unroll
