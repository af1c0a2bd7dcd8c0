#pragma once

#include <cstdint>
#include <vector>

namespace unroll {

struct AnomalyOptions {
  std::int64_t long_window = 8000;  ///< errors whose distribution is what is usual
  std::int64_t short_window = 10;   ///< the last errors, whose mean is judged by it
  std::int64_t warm_up = 100;       ///< errors before the first judgement
  double epsilon = 1e-5;            ///< an alarm is raised where a tail is no larger
  std::int64_t quiet = 0;           ///< steps without a small tail before another alarm is raised
  bool two_sided = false;           ///< unusually small is unusual too
};

/// Is what a model gets wrong now unusual? The anomaly likelihood of Lavin and Ahmad ("Evaluating
/// real-time anomaly detection algorithms - the Numenta anomaly benchmark", 2015): mu and sigma of
/// the last `long_window` errors, mu' of the last `short_window`, all with the newest, and
///
///     tail = Q((mu' - mu) / sigma),    Q(z) = erfc(z / sqrt(2)) / 2
///
/// (the paper's likelihood is 1 - tail, which rounds to 1 where it matters). A model that forecasts
/// badly everywhere raises no alarm; one that begins to does. Takes one error a step, at any time
/// in memory of one size, for a pass over the long window.
class AnomalyDetector {
 public:
  struct Step {
    double tail = 0.5;   ///< the smaller, the less usual; 0.5 while warming up
    bool alarm = false;  ///< the first small tail behind `quiet` others
  };

  /// Throws Error for windows, a warm-up or an epsilon that make no sense.
  explicit AnomalyDetector(const AnomalyOptions& options = {});
  /// The next error. Throws Error for one that is not finite; then nothing has moved.
  Step step(double error);
  std::int64_t position() const { return position_; }

 private:
  AnomalyOptions options_;
  std::vector<double> errors_;  // a ring of long_window
  std::int64_t position_ = 0;   // errors so far
  std::int64_t last_small_ = -1;
};

}  // namespace unroll
