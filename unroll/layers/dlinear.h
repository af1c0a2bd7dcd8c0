#pragma once

#include <unroll/layers/linear.h>

namespace unroll {

/// A series taken apart; the two add up to it.
struct Decomposition {
  Tensor seasonal;
  Tensor trend;
};

/// The moving average of x [T, ...] along time, and what it leaves. Its window of `kernel` steps
/// (odd) is centred; before the first and behind the last step it meets these again (Wu et al.,
/// "Autoformer", 2021, section 3.1). Throws ShapeError for an even kernel and for a scalar.
Decomposition decompose(const Tensor& x, std::int64_t kernel, Where where = Where::current());

struct DLinearOptions {
  std::int64_t look_back = 336;  ///< steps that are read
  std::int64_t horizon = 96;     ///< steps that are forecast
  std::int64_t kernel = 25;      ///< of the moving average
  bool average = false;  ///< weights start as 1 / look_back, the mean of the window; else uniform
};

/// Two linear layers along time, for the trend and for the rest, shared by all channels (Zeng et
/// al., "Are Transformers effective for time series forecasting?", 2023). Parameters have the
/// authors' names: Linear_Seasonal.weight [horizon, look_back], ..., Linear_Trend.bias [horizon].
class DLinear : public Module {
 public:
  explicit DLinear(const DLinearOptions& options, GeneratorRef generator = {});
  /// x [look_back, B, C] -> [horizon, B, C]. Throws ShapeError for another length.
  Tensor operator()(const Tensor& x, Where where = Where::current()) const;
  std::string describe() const override;

 private:
  DLinearOptions options_;
  Linear seasonal_, trend_;
};

}  // namespace unroll
