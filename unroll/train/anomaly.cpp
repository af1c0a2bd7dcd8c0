#include <fmt/format.h>
#include <unroll/graph/error.h>
#include <unroll/train/anomaly.h>

#include <algorithm>
#include <cmath>
#include <span>

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

AnomalyDetector::Step AnomalyDetector::step(double error) {
  if (!std::isfinite(error))
    fail("AnomalyDetector", fmt::format("error {} at step {}", error, position_),
         "Leave out what was not measured, or what the model cannot forecast");
  const std::int64_t n = options_.long_window, m = options_.short_window;
  errors_[static_cast<std::size_t>(position_++ % n)] = error;
  if (position_ <= options_.warm_up) return {};

  // Sums that gained and lost a term a step would not forget an outlier: they are taken anew, in
  // units of the largest error, whose square is finite.
  const std::span<const double> kept(errors_.data(),
                                     static_cast<std::size_t>(std::min(position_, n)));
  const auto count = static_cast<double>(kept.size());
  double unit = 0, centre = 0, squares = 0, recent = 0;
  for (const double one : kept) unit = std::max(unit, std::abs(one));
  if (unit == 0) return {};
  for (const double one : kept) centre += one / unit / count;
  for (const double one : kept) squares += (one / unit - centre) * (one / unit - centre);
  for (std::int64_t back = 0; back < m; ++back)
    recent += errors_[static_cast<std::size_t>((position_ - 1 - back) % n)] / unit;
  const double deviation = std::sqrt(squares / count);
  const double distance = recent / static_cast<double>(m) - centre;
  // Nothing ever differed, up to rounding: nothing is unusual.
  if (deviation <= 1e-12) return {};
  const double z = distance / deviation / std::sqrt(2.0);
  Step result{.tail = options_.two_sided ? std::erfc(std::abs(z)) : std::erfc(z) / 2};
  if (result.tail <= options_.epsilon) {
    result.alarm = last_small_ < 0 || position_ - last_small_ > options_.quiet + 1;
    last_small_ = position_;
  }
  return result;
}

}  // namespace unroll
