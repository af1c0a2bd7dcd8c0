#pragma once

#include <unroll/layers/module.h>

namespace unroll {

namespace detail {
/// One seeded by two numbers of `generator`, for a layer to keep.
Generator own_generator(GeneratorRef& generator);
}  // namespace detail

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

/// The same with one mask for all steps of a sequence: x [T, B, F], mask [1, B, F] (variational
/// dropout; Gal, Ghahramani, 2016). Recurrent layers have it for their inputs and for h as options,
/// see Regularization.
class VariationalDropout : public Module {
 public:
  explicit VariationalDropout(double p, GeneratorRef generator = {});
  /// Throws ShapeError where x has no time and batch.
  Tensor operator()(const Tensor& x, Where where = Where::current());
  std::string describe() const override;
  double p() const { return p_; }

 private:
  double p_;
  Generator generator_;
};

}  // namespace unroll
