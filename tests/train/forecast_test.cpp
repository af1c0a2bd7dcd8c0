#include <unroll/graph/gradient_check.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/reduce.h>
#include <unroll/train/forecast.h>

#include <algorithm>
#include <cmath>

#include "../catch.h"
#include "../io/files.h"

using namespace unroll;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) { return max(abs(a - b)).item(); }

// Row t of a series of two channels: t and a wave.
Tensor ramp(std::int64_t rows) {
  Tensor series = Tensor::empty({rows, 2}, DType::f64);
  for (std::int64_t t = 0; t < rows; ++t) {
    series.mutable_ptr<double>()[2 * t] = static_cast<double>(t);
    series.mutable_ptr<double>()[2 * t + 1] = std::sin(0.3 * static_cast<double>(t));
  }
  return series;
}

}  // namespace

TEST_CASE("decompose is a centred moving average that repeats the ends", "[train]") {
  Generator g(1);
  const Tensor x = g.normal({9, 2, 3}, 0, 1, DType::f64);
  const auto [seasonal, trend] = decompose(x, 5);
  CHECK(largest_difference(seasonal + trend, x) < 1e-12);
  const double* values = x.ptr<double>();
  for (std::int64_t t = 0; t < 9; ++t)
    for (std::int64_t column = 0; column < 6; ++column) {
      double sum = 0;
      for (std::int64_t k = t - 2; k <= t + 2; ++k)
        sum += values[std::clamp<std::int64_t>(k, 0, 8) * 6 + column];
      CHECK(trend.ptr<double>()[t * 6 + column] == Approx(sum / 5).margin(1e-12));
    }
  // A window of one step leaves nothing; a constant has no season, whatever the window.
  CHECK(largest_difference(decompose(x, 1).trend, x) < 1e-12);
  CHECK(largest_difference(decompose(Tensor::full({4, 2}, 3, DType::f64), 25).trend,
                           Tensor::full({4, 2}, 3, DType::f64)) < 1e-12);
  CHECK_THROWS_AS(decompose(x, 4), ShapeError);
}

TEST_CASE("DLinear is two linear layers along time", "[train]") {
  Generator g(2);
  DLinear model({.look_back = 6, .horizon = 4, .kernel = 3}, g);
  model.to(DType::f64);
  const Tensor x = g.normal({6, 2, 3}, 0, 1, DType::f64);
  const auto [seasonal, trend] = decompose(x, 3);
  const StateDict state = model.state_dict();
  const Tensor y = model(x);
  REQUIRE(y.shape() == Shape{4, 2, 3});
  for (std::int64_t h = 0; h < 4; ++h)
    for (std::int64_t column = 0; column < 6; ++column) {
      double sum = 0;
      for (const auto& [name, part] :
           {std::pair<const char*, const Tensor&>{"Linear_Seasonal", seasonal},
            {"Linear_Trend", trend}}) {
        const Tensor weight = state.at(std::string(name) + ".weight");
        const Tensor bias = state.at(std::string(name) + ".bias");
        sum += bias.ptr<double>()[h];
        for (std::int64_t t = 0; t < 6; ++t)
          sum += weight.ptr<double>()[h * 6 + t] * part.ptr<double>()[t * 6 + column];
      }
      CHECK(y.ptr<double>()[h * 6 + column] == Approx(sum).margin(1e-12));
    }
  const std::vector<std::size_t> wrt = {0};
  CHECK(
      gradient_error([&](std::span<const Tensor> in) { return std::vector<Tensor>{model(in[0])}; },
                     std::vector<Tensor>{x}, wrt) < 1e-7);
  CHECK_THROWS_AS(model(g.normal({5, 2, 3}, 0, 1, DType::f64)), ShapeError);
  // Season and trend add up to the window, so that their means add up to its mean.
  DLinear average({.look_back = 6, .horizon = 4, .kernel = 3, .average = true}, g);
  average.to(DType::f64);
  const Tensor biases = average(Tensor::zeros({6, 2, 3}, DType::f64));
  CHECK(largest_difference(average(x) - biases, expand(mean(x, {0}, true), {4, 2, 3})) < 1e-7);
  CHECK_THROWS_AS(DLinear({.kernel = 24}), Error);
}

TEST_CASE("windows of the three parts hold what is theirs", "[train]") {
  const ForecastData data(ramp(100), {.train = 60, .validation = 15, .test = 20}, 8, 5);
  CHECK(data.train.count() == 60 - 8 - 5 + 1);
  CHECK(data.validation.count() == 15 - 5 + 1);
  CHECK(data.test.count() == 20 - 5 + 1);
  // In original units, channel 0 is the number of its row.
  const auto rows = [&](const Tensor& x, std::int64_t b) {
    const Tensor raw = data.scaler.undo(x);
    std::vector<std::int64_t> result;
    for (std::int64_t t = 0; t < x.size(0); ++t)
      result.push_back(std::llround(raw.ptr<float>()[(t * x.size(1) + b) * 2]));
    return result;
  };
  std::int64_t first = 0, last = 0;
  for (const auto& [windows, begin, end] :
       {std::tuple<const ForecastWindows&, std::int64_t, std::int64_t>{data.train, 0, 60},
        {data.validation, 60, 75},
        {data.test, 75, 95}}) {
    const std::vector<std::int64_t> ends = {0, windows.count() - 1};
    const auto [x, y] = windows.gather(ends);
    REQUIRE(x.shape() == Shape{8, 2, 2});
    REQUIRE(y.shape() == Shape{5, 2, 2});
    for (std::int64_t b = 0; b < 2; ++b) {
      const auto known = rows(x, b), asked = rows(y, b);
      for (std::size_t t = 1; t < 8; ++t) CHECK(known[t] == known[t - 1] + 1);
      for (std::size_t t = 1; t < 5; ++t) CHECK(asked[t] == asked[t - 1] + 1);
      CHECK(asked.front() == known.back() + 1);
      (b == 0 ? first : last) = b == 0 ? asked.front() : asked.back();
    }
    CHECK(first == std::max<std::int64_t>(begin, 8));
    CHECK(last == end - 1);
  }
  CHECK_THROWS_AS(data.train.gather(std::vector<std::int64_t>{data.train.count()}), Error);
}

TEST_CASE("nothing behind the training rows reaches scaling or training windows", "[train]") {
  const SeriesSplit split{.train = 60, .validation = 15, .test = 20};
  Tensor other = ramp(100);
  for (std::int64_t i = 60 * 2; i < 200; ++i) other.mutable_ptr<double>()[i] = 1e6 + 7.0 * i;
  const ForecastData a(ramp(100), split, 8, 5), b(other, split, 8, 5);
  CHECK(a.scaler.mean == b.scaler.mean);
  CHECK(a.scaler.deviation == b.scaler.deviation);
  for (std::int64_t i = 0; i < a.train.count(); ++i) {
    const std::vector<std::int64_t> one = {i};
    CHECK(largest_difference(a.train.gather(one).x, b.train.gather(one).x) == 0);
    CHECK(largest_difference(a.train.gather(one).y, b.train.gather(one).y) == 0);
  }
  // The statistics are those of the training rows: 0 to 59 have mean 29.5.
  CHECK(a.scaler.mean[0] == Approx(29.5));
  CHECK(a.scaler.deviation[0] == Approx(std::sqrt((60.0 * 60 - 1) / 12)));
}

TEST_CASE("splits and windows that do not fit are refused", "[train]") {
  const auto refusal = [](const SeriesSplit& split, std::int64_t look_back, std::int64_t horizon) {
    return message_of<DataError>([&] { ForecastData(ramp(50), split, look_back, horizon); });
  };
  CHECK(
      has(refusal({.train = 30, .validation = 10, .test = 11}, 5, 2), "30, 10 and 11 rows of 50"));
  CHECK(has(refusal({.train = 30, .validation = 0, .test = 11}, 5, 2), "positive"));
  CHECK(has(refusal({.train = 30, .validation = 10, .test = 10}, 29, 2), "look-back of 29"));
  CHECK(
      has(refusal({.train = 30, .validation = 10, .test = 10}, 5, 11), "have to reach to row 41"));
  const SeriesSplit split = default_split(3126);
  CHECK(split.train == 2188);
  CHECK(split.test == 625);
  CHECK(split.rows() == 3126);
  CHECK(has(message_of([] { make_forecaster({.model = "oracle"}); }), "dlinear"));
}

TEST_CASE("naive forecasts repeat the last row and the last season", "[train]") {
  const Tensor x = Tensor::from<float>({1, 2, 3, 4, 5}, {5, 1, 1});
  const Tensor season = forecast_seasonal(x, 7, 3), same = forecast_persistence(x, 3);
  CHECK(std::ranges::equal(season.data<float>(), std::vector<float>{3, 4, 5, 3, 4, 5, 3}));
  CHECK(std::ranges::equal(same.data<float>(), std::vector<float>{5, 5, 5}));
  CHECK_THROWS_AS(forecast_seasonal(x, 7, 6), ShapeError);

  // A ramp of deviation d: persistence over a horizon of 2 is wrong by 1 and by 2.
  const ForecastData data(slice(ramp(100), 1, 0, 1), {.train = 60, .validation = 15, .test = 20}, 8,
                          2);
  const double unit = 1 / data.scaler.deviation[0];
  const ForecastScore score = score_forecast(
      [](const Tensor& window) { return forecast_persistence(window, 2); }, data.test);
  CHECK(score.mse == Approx(2.5 * unit * unit).epsilon(1e-4));
  CHECK(score.mae == Approx(1.5 * unit).epsilon(1e-4));
  const ForecastScore exact = score_forecast(
      [&, i = std::int64_t{0}](const Tensor& window) mutable {
        std::vector<std::int64_t> numbers;
        for (std::int64_t b = 0; b < window.size(1); ++b) numbers.push_back(i++);
        return data.test.gather(numbers).y;
      },
      data.test);
  CHECK(exact.mse == 0);
  CHECK(exact.mae == 0);
}

TEST_CASE("a sequence model reads the last whole patches, channel by channel", "[train]") {
  for (const bool independent : {true, false}) {
    CAPTURE(independent);
    Generator g(4);
    const auto model = make_forecaster({.model = "gru",
                                        .channels = 2,
                                        .look_back = 13,
                                        .horizon = 3,
                                        .parameters = 8000,
                                        .dropout = 0,
                                        .patch = 4,
                                        .channel_independent = independent},
                                       g);
    model->eval();
    const Tensor x = g.normal({13, 2, 2}, 0, 1);
    const Tensor y = (*model)(x);
    REQUIRE(y.shape() == Shape{3, 2, 2});
    CHECK_THROWS_AS((*model)(slice(x, 0, 1)), ShapeError);
    // One sequence of the batch alone, and one channel moved and scaled: the others do not notice.
    CHECK(largest_difference((*model)(slice(x, 1, 1)), slice(y, 1, 1)) < 1e-5);
    const Tensor scale = Tensor::from<float>({1, 50}, {2}),
                 shift = Tensor::from<float>({0, 9}, {2});
    CHECK(largest_difference((*model)(x * scale + shift), y * scale + shift) < 2e-2);
    // Another shape of channel 1 reaches channel 0 where they are read together, and only there.
    const Tensor other = concat({slice(x, 2, 0, 1), g.normal({13, 2, 1}, 0, 1)}, 2);
    const double reached = largest_difference(slice((*model)(other), 2, 0, 1), slice(y, 2, 0, 1));
    CHECK((independent ? reached < 1e-5 : reached > 1e-4));
  }
  CHECK(has(message_of([] { make_forecaster({.model = "gru", .look_back = 12, .patch = 13}); }),
            "patches of 13 rows of 12"));
}

TEST_CASE("forecasters learn a wave and a slope", "[train]") {
  const ForecastData data(ramp(400), {.train = 300, .validation = 40, .test = 60}, 24, 6);
  const double naive =
      score_forecast([](const Tensor& x) { return forecast_persistence(x, 6); }, data.test).mse;
  for (const char* name : {"dlinear", "gru", "transformer"}) {
    Generator g(3);
    const auto model = make_forecaster({.model = name,
                                        .channels = 2,
                                        .look_back = 24,
                                        .horizon = 6,
                                        .kernel = 5,
                                        .parameters = 8000,
                                        .dropout = 0,
                                        .patch = 4,
                                        .channel_independent = name[0] != 'g'},
                                       g);
    const EpochResult result = train_forecaster(
        *model, data, g, {.epochs = 12, .learning_rate = 1e-2, .clip_norm = 1, .label = ""});
    CAPTURE(name, naive, result.best);
    CHECK(score_forecast(std::ref(*model), data.test).mse < 0.1 * naive);
  }
}

TEST_CASE("DLinear reaches its published error on ETTh1", "[slow]") {
  const auto path = external_data("etth1/ETTh1.csv");
  if (path.empty()) {
    WARN("skipped: etth1/ETTh1.csv is not in $UNROLL_DATA");
    return;
  }
  const ForecastData data(read_csv(path).tensor({}, DType::f64),
                          {.train = 8640, .validation = 2880, .test = 2880}, 336, 96);
  CHECK(data.test.count() == 2785);
  Generator g(1);
  const auto model = make_forecaster({.channels = 7}, g);
  EpochOptions recipe = forecast_recipe("dlinear");
  recipe.epochs = 5;
  recipe.label = "";
  train_forecaster(*model, data, g, recipe);
  CHECK(std::abs(score_forecast(std::ref(*model), data.test).mse - 0.375) < 0.005);
}
