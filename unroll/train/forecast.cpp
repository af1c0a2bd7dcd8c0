#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/io/fail_data.h>
#include <unroll/layers/revin.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/loss.h>
#include <unroll/optim/adam.h>
#include <unroll/train/forecast.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace unroll {
namespace {

class LinearForecaster : public Forecaster {
 public:
  LinearForecaster(const ForecasterOptions& o, GeneratorRef g)
      : model_(
            {.look_back = o.look_back, .horizon = o.horizon, .kernel = o.kernel, .average = true},
            g) {
    add("dlinear", model_);
  }
  Tensor operator()(const Tensor& x) override { return model_(x); }
  std::string describe() const override { return "LinearForecaster"; }

 private:
  DLinear model_;
};

class SequenceForecaster : public Forecaster {
 public:
  SequenceForecaster(const ForecasterOptions& o, GeneratorRef g)
      : options_(checked(o)),
        columns_(o.channel_independent ? 1 : o.channels),
        revin_({.channels = o.channels}),
        model_(make_model(config_of(o, columns_), g)),
        dropout_(o.dropout, g),
        head_(features, o.horizon * columns_, g) {
    add("revin", revin_);
    add("model", *model_);
    add("dropout", dropout_);
    add("head", head_);
  }
  Tensor operator()(const Tensor& x) override {
    if (x.rank() != 3 || x.size(0) != options_.look_back)
      fail_shape("forecast",
                 fmt::format("{} for a look-back of {} steps", to_string(x), options_.look_back),
                 "x is [look_back, B, C]");
    const RevIN::Normalized window = revin_.normalize(x);
    // [T, B, C] -> [steps, sequences, patch * columns]
    const std::int64_t steps = options_.look_back / options_.patch;
    const Tensor seen = slice(window.x, 0, x.size(0) - steps * options_.patch);
    const Tensor patches =
        permute(reshape(seen, {steps, options_.patch, -1, columns_}), {0, 2, 1, 3});
    const Tensor read = select((*model_)(flatten(patches, 2)).output, 0, -1);
    const Tensor y = reshape(head_(dropout_(read)), {-1, options_.horizon, columns_});
    return revin_.restore(reshape(permute(y, {1, 0, 2}), {options_.horizon, x.size(1), x.size(2)}),
                          window);
  }
  std::string describe() const override { return "SequenceForecaster"; }

 private:
  static constexpr std::int64_t features = 64;

  static const ForecasterOptions& checked(const ForecasterOptions& o) {
    if (o.patch < 1 || o.patch > o.look_back)
      fail("forecast", fmt::format("patches of {} rows of {}", o.patch, o.look_back),
           "A patch is no longer than the look-back");
    return o;
  }
  static ModelConfig config_of(const ForecasterOptions& o, std::int64_t columns) {
    return sized({.kind = model_kind(o.model),
                  .features = o.patch * columns,
                  .outputs = features,
                  .embedding = features,
                  .layers = o.layers,
                  .heads = o.heads,
                  .dropout = o.dropout},
                 o.parameters);
  }

  ForecasterOptions options_;
  std::int64_t columns_;  // of the series that one sequence holds
  RevIN revin_;
  std::unique_ptr<SequenceModel> model_;
  Dropout dropout_;
  Linear head_;
};

// In f64: an f32 has no room for small changes of a large number. Rows behind the split are not
// looked at, nor does anything but the training rows enter the statistics.
std::pair<Tensor, Scaler> scaled_rows(const Tensor& raw, const SeriesSplit& split) {
  if (split.train < 1 || split.validation < 1 || split.test < 1 || split.rows() > raw.size(0))
    fail_data("forecast",
              fmt::format("a split into {}, {} and {} rows of {}", split.train, split.validation,
                          split.test, raw.size(0)),
              "Training, validation and test rows are positive, and no more than there are");
  auto [series, scaler] = standardize(raw.rows(0, split.rows()), split.train);
  return {series.to(DType::f32), scaler};
}

}  // namespace

SeriesSplit default_split(std::int64_t rows) {
  const std::int64_t train = rows * 7 / 10, test = rows * 2 / 10;
  return {.train = train, .validation = rows - train - test, .test = test};
}

ForecastWindows::ForecastWindows(const Tensor& series, std::int64_t begin, std::int64_t end,
                                 std::int64_t look_back, std::int64_t horizon)
    : series_(series),
      look_back_(look_back),
      horizon_(horizon),
      first_(std::max(begin, look_back)),
      count_(end - horizon - first_ + 1) {
  if (series.rank() != 2 || series.dtype() != DType::f32 || begin < 0 || end > series.size(0) ||
      look_back < 1 || horizon < 1)
    fail("forecast", fmt::format("rows {} to {} of {}, look-back {}, horizon {}", begin, end,
                                 to_string(series), look_back, horizon));
  if (count_ < 1)
    fail_data("forecast",
              fmt::format("rows {} to {} hold no horizon of {} steps behind a look-back of {}",
                          begin, end, horizon, look_back),
              fmt::format("They would have to reach to row {}", first_ + horizon));
}

ForecastWindows::Pair ForecastWindows::gather(std::span<const std::int64_t> windows) const {
  const std::int64_t channels = series_.size(1), batch = std::ssize(windows);
  Pair pair{Tensor::empty({look_back_, batch, channels}),
            Tensor::empty({horizon_, batch, channels})};
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t window = windows[static_cast<std::size_t>(b)];
    if (window < 0 || window >= count_)
      fail("forecast", fmt::format("window {} of {}", window, count_));
    const auto copy = [&](Tensor& into, std::int64_t row) {
      for (std::int64_t t = 0; t < into.size(0); ++t)
        std::copy_n(series_.ptr<float>() + (row + t) * channels, channels,
                    into.mutable_ptr<float>() + (t * batch + b) * channels);
    };
    copy(pair.x, first_row(window) - look_back_);
    copy(pair.y, first_row(window));
  }
  return pair;
}

ForecastData::ForecastData(const Tensor& raw, const SeriesSplit& split, std::int64_t back,
                           std::int64_t ahead)
    : channels(raw.size(1)),
      look_back(back),
      horizon(ahead),
      series([&] {
        auto [rows, statistics] = scaled_rows(raw, split);
        scaler = std::move(statistics);
        return rows;
      }()),
      train(series, 0, split.train, back, ahead),
      validation(series, split.train, split.train + split.validation, back, ahead),
      test(series, split.train + split.validation, split.rows(), back, ahead) {}

std::unique_ptr<Forecaster> make_forecaster(const ForecasterOptions& o, GeneratorRef generator) {
  if (o.model == "dlinear") return std::make_unique<LinearForecaster>(o, generator);
  try {
    model_kind(o.model);
  } catch (const Error& error) {
    throw Error(std::string(error.what()) + ", dlinear");
  }
  return std::make_unique<SequenceForecaster>(o, generator);
}

ForecastScore score_forecast(const std::function<Tensor(const Tensor& x)>& f,
                             const ForecastWindows& windows) {
  const NoGrad constant;
  constexpr std::int64_t batch = 64;
  ForecastScore score;
  double count = 0;
  for (std::int64_t begin = 0; begin < windows.count(); begin += batch) {
    std::vector<std::int64_t> some(
        static_cast<std::size_t>(std::min(batch, windows.count() - begin)));
    std::iota(some.begin(), some.end(), begin);
    const auto [x, y] = windows.gather(some);
    const Tensor z = f(x);
    if (z.shape() != y.shape())
      fail_shape("forecast", fmt::format("{} for {}", to_string(z), to_string(y)));
    const auto forecast = z.data<float>(), truth = y.data<float>();
    for (std::size_t i = 0; i < truth.size(); ++i) {
      const double d = static_cast<double>(forecast[i]) - static_cast<double>(truth[i]);
      score.mse += d * d;
      score.mae += std::abs(d);
    }
    count += static_cast<double>(truth.size());
  }
  return {score.mse / count, score.mae / count};
}

Tensor forecast_persistence(const Tensor& x, std::int64_t horizon) {
  return forecast_seasonal(x, horizon, 1);
}

Tensor forecast_seasonal(const Tensor& x, std::int64_t horizon, std::int64_t period) {
  if (period < 1 || horizon < 1 || x.rank() < 1 || x.size(0) < period)
    fail_shape("forecast", fmt::format("{} for a period of {}", to_string(x), period),
               "The look-back must hold a whole period");
  std::vector<Tensor> parts;
  const Tensor season = slice(x, 0, x.size(0) - period);
  for (std::int64_t t = 0; t < horizon; t += period)
    parts.push_back(slice(season, 0, 0, std::min(period, horizon - t)));
  return concat(parts);
}

EpochOptions forecast_recipe(const std::string& model) {
  if (model == "dlinear")
    return {.epochs = 10,
            .batch = 8,
            .learning_rate = 1e-4,
            .epoch_factor = [](int epoch) { return std::ldexp(1.0, -std::max(0, epoch - 2)); },
            .patience = 3};
  return {.epochs = 20,
          .batch = 32,
          .learning_rate = 1e-3,
          .warmup = 0.05,
          .clip_norm = 1,
          .patience = 5};
}

EpochResult train_forecaster(Forecaster& model, const ForecastData& data, Generator& generator,
                             const EpochOptions& options) {
  Adam optimizer(model.parameters(), {.learning_rate = options.learning_rate});
  const EpochTask task{
      .examples = data.train.count(),
      .loss =
          [&](std::span<const std::int64_t> batch) {
            const auto [x, y] = data.train.gather(batch);
            return mse_loss(model(x), y);
          },
      .evaluate = [&] { return score_forecast(std::ref(model), data.validation).mse; },
  };
  return train_epochs(model, optimizer, task, generator, options);
}

}  // namespace unroll
