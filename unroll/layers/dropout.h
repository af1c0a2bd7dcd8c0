#pragma once

#include <unroll/layers/module.h>

namespace unroll {

/// Zeroes each element with probability p while training and scales the rest by 1 / (1 - p);
/// passes x through in evaluation (Srivastava et al., 2014).
class Dropout : public Module {
 public:
  explicit Dropout(double p, GeneratorRef generator = {});
  Tensor operator()(const Tensor& x, Where where = Where::current());
  std::string describe() const override;
  double p() const { return p_; }

 private:
  double p_;
  Generator generator_;
};

}  // namespace unroll
