#include <unroll/graph/generator.h>
#include <unroll/train/anomaly.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "../catch.h"

using namespace unroll;

namespace {

// The definition, from all errors up to `end`.
double tail_of(const std::vector<double>& errors, std::size_t end, const AnomalyOptions& o) {
  const auto moments = [&](std::int64_t window) {
    const std::size_t count = std::min(end, static_cast<std::size_t>(window));
    double sum = 0, squares = 0;
    for (std::size_t i = end - count; i < end; ++i) sum += errors[i];
    const double mean = sum / static_cast<double>(count);
    for (std::size_t i = end - count; i < end; ++i) squares += std::pow(errors[i] - mean, 2);
    return std::pair{mean, std::sqrt(squares / static_cast<double>(count))};
  };
  const auto [mean, deviation] = moments(o.long_window);
  const double z = (moments(o.short_window).first - mean) / deviation;
  return o.two_sided ? std::erfc(std::abs(z) / std::sqrt(2)) : 0.5 * std::erfc(z / std::sqrt(2));
}

std::vector<double> noise(std::size_t count, std::uint64_t seed, double level = 1) {
  Generator g(seed);
  std::vector<double> values(count);
  for (double& value : values) value = level + g.normal();
  return values;
}

}  // namespace

TEST_CASE("a tail is that of its definition, however long the stream", "[train]") {
  for (const bool two_sided : {false, true})
    for (const double level : {1.0, 1e7}) {  // far from 0 sums of squares would cancel
      CAPTURE(two_sided, level);
      const AnomalyOptions o{
          .long_window = 50, .short_window = 7, .warm_up = 20, .two_sided = two_sided};
      AnomalyDetector detector(o);
      std::vector<double> errors = noise(1000, 1, level);
      for (std::size_t t = 400; t < 410; ++t) errors[t] += 30;
      for (std::size_t t = 0; t < errors.size(); ++t) {
        const double tail = detector.step(errors[t]).tail;
        const double right = t < 20 ? 0.5 : tail_of(errors, t + 1, o);
        if (std::abs(tail - right) > 1e-6 * right + 1e-9) {
          CAPTURE(t, tail, right);
          FAIL_CHECK("not the tail");
        }
      }
      CHECK(detector.position() == 1000);
    }
}

TEST_CASE("an outlier of any size is an alarm, and forgotten once it has left the window",
          "[train]") {
  const AnomalyOptions o{.long_window = 3000, .short_window = 7, .warm_up = 20};
  for (const double outlier : {1e9, 1e200}) {
    CAPTURE(outlier);
    AnomalyDetector detector(o);
    std::vector<double> errors = noise(6300, 3);
    errors[3000] = outlier;
    for (std::size_t t = 0; t < errors.size(); ++t) {
      const AnomalyDetector::Step step = detector.step(errors[t]);
      if (t == 3000) CHECK(step.alarm);
      if (t > 6000) REQUIRE(step.tail == Approx(tail_of(errors, t + 1, o)).epsilon(1e-6));
    }
  }
}

TEST_CASE("errors that grow raise one alarm, at once, and usual ones none", "[train]") {
  std::vector<double> errors = noise(5000, 2);
  for (std::size_t t = 3000; t < 3040; ++t) errors[t] += 8;  // a fault of 40 steps
  for (std::size_t t = 3060; t < 3080; ++t) errors[t] += 8;  // and again, soon
  for (std::size_t t = 4500; t < 4520; ++t) errors[t] += 8;
  AnomalyDetector detector({.long_window = 2000, .short_window = 10, .quiet = 100});
  std::vector<std::int64_t> alarms;
  for (std::size_t t = 0; t < errors.size(); ++t)
    if (detector.step(errors[t]).alarm) alarms.push_back(static_cast<std::int64_t>(t));
  REQUIRE(alarms.size() == 2);
  CHECK(alarms[0] >= 3000);
  CHECK(alarms[0] < 3010);
  CHECK(alarms[1] >= 4500);
  CHECK(alarms[1] < 4520);  // the fault before still widens what is usual
}

TEST_CASE("smaller errors are unusual where both sides are asked", "[train]") {
  for (const bool two_sided : {false, true}) {
    AnomalyDetector detector({.long_window = 2000, .short_window = 10, .two_sided = two_sided});
    int alarms = 0;
    for (const double error : noise(1000, 3)) alarms += detector.step(error).alarm;
    CHECK(alarms == 0);
    for (int t = 0; t < 10; ++t) alarms += detector.step(-9).alarm;
    CHECK(alarms == (two_sided ? 1 : 0));
  }
}

TEST_CASE("a stream that never errs raises nothing until it does", "[train]") {
  AnomalyDetector detector({.long_window = 300, .short_window = 5, .warm_up = 50});
  for (int t = 0; t < 1000; ++t) {
    const auto [tail, alarm] = detector.step(0.1);
    REQUIRE(tail == 0.5);
    REQUIRE_FALSE(alarm);
  }
  int alarms = 0;
  for (int t = 0; t < 5; ++t) alarms += detector.step(0.2).alarm;
  CHECK(alarms == 1);
}

TEST_CASE("a detector refuses what is no error and no window", "[train]") {
  AnomalyDetector detector;
  detector.step(1);
  CHECK_THROWS_AS(detector.step(std::numeric_limits<double>::quiet_NaN()), Error);
  CHECK(detector.position() == 1);
  CHECK(has(message_of([] { AnomalyDetector({.long_window = 10, .short_window = 10}); }),
            "windows of 10 and 10"));
  CHECK(has(message_of([] { AnomalyDetector({.warm_up = 5}); }), "warm-up of 5"));
  CHECK_THROWS_AS(AnomalyDetector({.epsilon = 0}), Error);
}
