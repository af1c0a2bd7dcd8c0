#pragma once

#include <unroll/optim/optimizer.h>

namespace unroll {

struct SGDOptions {
  double learning_rate = 1e-3;
  double momentum = 0;   ///< 0 keeps no moment
  double dampening = 0;  ///< of what enters the momentum, from the second step on
  double weight_decay = 0;
  bool nesterov = false;  ///< needs momentum and no dampening
};

/// Stochastic gradient descent in PyTorch's form, in which the learning rate stands outside the
/// momentum (Sutskever et al., "On the importance of initialization and momentum in deep
/// learning", 2013, has it inside):
///
///     g += weight_decay p;  b = momentum b + (1 - dampening) g  (b = g in the first step)
///     p -= learning_rate (nesterov ? g + momentum b : b)
class SGD : public Optimizer {
 public:
  explicit SGD(const std::vector<ParameterGroup>& groups, const SGDOptions& options = {});
  explicit SGD(std::vector<Parameter> parameters, const SGDOptions& options = {})
      : SGD(std::vector<ParameterGroup>{{std::move(parameters)}}, options) {}

 private:
  void update(const ParameterUpdate& parameter) const override;

  SGDOptions options_;
};

}  // namespace unroll
