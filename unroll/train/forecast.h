#pragma once

#include <unroll/io/csv.h>
#include <unroll/layers/dlinear.h>
#include <unroll/layers/dropout.h>
#include <unroll/train/epochs.h>
#include <unroll/train/sequence_model.h>

#include <memory>

namespace unroll {

/// Consecutive rows of a series that train, choose and test; what comes behind is unused.
struct SeriesSplit {
  std::int64_t train = 0, validation = 0, test = 0;
  std::int64_t rows() const { return train + validation + test; }
};

/// 70, 10 and 20 % of a series.
SeriesSplit default_split(std::int64_t rows);

/// Pairs of what is known and what is asked: look_back steps, and the horizon steps behind them.
/// All that is asked lies in rows begin to end; what is known may reach back before them.
class ForecastWindows {
 public:
  /// series [T, C] f32. Throws DataError, with the rows that would do, where no pair fits.
  ForecastWindows(const Tensor& series, std::int64_t begin, std::int64_t end,
                  std::int64_t look_back, std::int64_t horizon);
  std::int64_t count() const { return count_; }
  /// The row that window i is asked for first.
  std::int64_t first_row(std::int64_t i) const { return first_ + i; }

  struct Pair {
    Tensor x;  ///< [look_back, B, C]
    Tensor y;  ///< [horizon, B, C]
  };
  Pair gather(std::span<const std::int64_t> windows) const;

 private:
  Tensor series_;
  std::int64_t look_back_, horizon_, first_, count_;
};

/// A series cut and scaled: every channel has mean 0 and deviation 1 over the training rows.
struct ForecastData {
  /// Throws DataError for a split that the series does not fill. raw [T, C] f64.
  ForecastData(const Tensor& raw, const SeriesSplit& split, std::int64_t look_back,
               std::int64_t horizon);
  std::int64_t channels, look_back, horizon;
  Scaler scaler;
  Tensor series;  ///< [split.rows(), C] f32, scaled
  ForecastWindows train, validation, test;
};

/// What forecasts: x [look_back, B, C] -> [horizon, B, C].
class Forecaster : public Module {
 public:
  virtual Tensor operator()(const Tensor& x) = 0;
};

struct ForecasterOptions {
  std::string model = "dlinear";  ///< dlinear, or the name of a ModelKind
  std::int64_t channels = 1, look_back = 336, horizon = 96;
  std::int64_t kernel = 25;          ///< DLinear: of the moving average
  std::int64_t parameters = 50'000;  ///< of a sequence model, without the layer that forecasts
  int layers = 1;
  std::int64_t heads = 4;
  double dropout = 0.2;
  std::int64_t patch = 24;          ///< rows that a sequence model reads in one step
  bool channel_independent = true;  ///< every channel is a sequence of its own
};

/// A DLinear, or a sequence model that reads the window, normalised by RevIN, in patches: `patch`
/// rows are one step (what is left over are the oldest rows, which it does not see), and a linear
/// layer on what it gives at the last step forecasts all rows at once. Patches, and one model for
/// all channels, each alone, are those of PatchTST (Nie et al., "A time series is worth 64 words",
/// 2023). Throws Error for an unknown name, listing the known ones, and for a patch longer than the
/// window.
std::unique_ptr<Forecaster> make_forecaster(const ForecasterOptions& options,
                                            GeneratorRef generator = {});

struct ForecastScore {
  double mse = 0, mae = 0;  ///< over all windows, steps and channels, of scaled values
};

/// Scores f, a map from x to a forecast of y, on all windows.
ForecastScore score_forecast(const std::function<Tensor(const Tensor& x)>& f,
                             const ForecastWindows& windows);

/// The last row, again and again.
Tensor forecast_persistence(const Tensor& x, std::int64_t horizon);
/// The last `period` rows, again and again. Throws ShapeError where x has fewer.
Tensor forecast_seasonal(const Tensor& x, std::int64_t horizon, std::int64_t period);

/// How a model is trained where nobody says otherwise. DLinear as its authors trained it on ETTh1
/// (their script for DLinear): Adam, batches of 8, a rate of 1e-4 for two epochs and then half that
/// of the epoch before, 10 epochs at the most, 3 without a better validation.
EpochOptions forecast_recipe(const std::string& model);

/// Trains by Adam on the training windows, the validation windows choosing the epoch.
EpochResult train_forecaster(Forecaster& model, const ForecastData& data, Generator& generator,
                             const EpochOptions& options);

}  // namespace unroll
