#pragma once

#include <unroll/layers/module.h>

namespace unroll {

struct RevINOptions {
  std::int64_t channels = 1;
  double eps = 1e-5;   ///< added to the variance
  bool affine = true;  ///< a weight and a bias for each channel
};

/// Reversible instance normalisation (Kim et al., "Reversible instance normalization for accurate
/// time-series forecasting against distribution shift", 2022): every window of every channel is
/// given mean 0 and deviation 1 before a model reads it, and what the model forecasts is given the
/// window's own mean and deviation back, so that a level and a scale that drift away from those of
/// training need not be learned. Parameters have the authors' names.
class RevIN : public Module {
 public:
  Parameter affine_weight, affine_bias;  ///< [C], with affine only

  struct Normalized {
    Tensor x;                ///< [T, B, C]
    Tensor mean, deviation;  ///< [1, B, C] of what it was made from
  };

  /// Throws Error where there is no channel.
  explicit RevIN(const RevINOptions& options);
  /// x [T, B, C] -> (x - mean) / sqrt(variance + eps) * weight + bias, the statistics being those
  /// along time (the variance divided by T). Throws ShapeError for another C.
  Normalized normalize(const Tensor& x, Where where = Where::current()) const;
  /// y [H, B, C] -> (y - bias) / (weight + eps^2) * deviation + mean, with the statistics of the
  /// window that y continues.
  Tensor restore(const Tensor& y, const Normalized& window, Where where = Where::current()) const;
  std::string describe() const override;

 private:
  RevINOptions options_;
};

}  // namespace unroll
