#include <fmt/format.h>
#include <unroll/graph/error.h>
#include <unroll/train/anomaly.h>

#include <algorithm>
#include <cmath>

namespace unroll {

AnomalyDetector::AnomalyDetector(const AnomalyOptions& o) : options_(o) {
  if (o.short_window < 1 || o.long_window <= o.short_window)
    fail("AnomalyDetector",
         fmt::format("windows of {} and {} errors", o.long_window, o.short_window),
         "The long window is longer than the short one, which has 1 at least");
  if (o.warm_up < o.short_window)
    fail("AnomalyDetector",
         fmt::format("a warm-up of {} errors, a short window of {}", o.warm_up, o.short_window));
  if (!(o.epsilon > 0 && o.epsilon < 0.5) || o.quiet < 0)
    fail("AnomalyDetector", fmt::format("epsilon {}, quiet {}", o.epsilon, o.quiet),
         "epsilon is a probability below 0.5");
  errors_.resize(static_cast<std::size_t>(o.long_window));
}

// The error `back` steps ago, 0 being the newest.
double AnomalyDetector::kept(std::int64_t back) const {
  return errors_[static_cast<std::size_t>((position_ - 1 - back) % options_.long_window)];
}

// Sums that lose and gain a term a step drift; once a round of the ring they are taken again, about
// its mean, where squares cancel least.
void AnomalyDetector::sum_anew() {
  const std::int64_t count = std::min(position_, options_.long_window);
  double total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += kept(i);
  origin_ = total / static_cast<double>(count);
  sum_ = squares_ = short_sum_ = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double d = kept(i) - origin_;
    sum_ += d;
    squares_ += d * d;
    if (i < options_.short_window) short_sum_ += d;
  }
}

AnomalyDetector::Step AnomalyDetector::step(double error) {
  if (!std::isfinite(error))
    fail("AnomalyDetector", fmt::format("error {} at step {}", error, position_),
         "Leave out what was not measured, or what the model cannot forecast");
  const std::int64_t n = options_.long_window, m = options_.short_window;
  const double leaves = position_ >= n ? kept(n - 1) - origin_ : 0;
  const double leaves_short = position_ >= m ? kept(m - 1) - origin_ : 0;
  errors_[static_cast<std::size_t>(position_++ % n)] = error;
  if (position_ <= options_.warm_up || position_ % n == 0) {
    sum_anew();
  } else {
    const double d = error - origin_;
    sum_ += d - (position_ > n ? leaves : 0);
    squares_ += d * d - (position_ > n ? leaves * leaves : 0);
    short_sum_ += d - (position_ > m ? leaves_short : 0);
  }
  if (position_ <= options_.warm_up) return {};

  const double count = static_cast<double>(std::min(position_, n));
  const double centre = sum_ / count;
  const double deviation = std::sqrt(std::max(0.0, squares_ / count - centre * centre));
  const double distance = short_sum_ / static_cast<double>(m) - centre;
  // Nothing ever differed, up to rounding: nothing is unusual.
  if (deviation <= 1e-12 * (std::abs(origin_) + std::abs(distance))) return {};
  const double z = distance / deviation / std::sqrt(2.0);
  Step result{.tail = options_.two_sided ? std::erfc(std::abs(z)) : std::erfc(z) / 2};
  if (result.tail <= options_.epsilon) {
    result.alarm = last_small_ < 0 || position_ - last_small_ > options_.quiet + 1;
    last_small_ = position_;
  }
  return result;
}

}  // namespace unroll
