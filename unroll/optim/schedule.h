#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace unroll {

/// The learning rate at a step; steps count from 0. A plain function: write your own as a lambda.
///
///     Schedule rate = schedule::cosine({.rate = 1e-3, .steps = 10'000, .warmup_steps = 200});
///     optimizer.set_learning_rate(rate(step));
using Schedule = std::function<double(std::int64_t step)>;

namespace schedule {

struct StepDecay {
  double rate = 1e-3;
  std::int64_t every = 1000;  ///< steps
  double factor = 0.1;
};

struct Cosine {
  double rate = 1e-3;             ///< the highest
  std::int64_t steps = 0;         ///< in all, warm-up included; from there on the final rate
  std::int64_t warmup_steps = 0;  ///< see linear_warmup
  double final_rate = 0;
};

struct InverseSqrt {
  double rate = 1e-3;  ///< the highest, at the end of the warm-up
  std::int64_t warmup_steps = 4000;
};

// All throw Error for rates that are negative or not finite and for counts that make no sense.

Schedule constant(double rate);
/// rate * factor^(step / every), the quotient rounded down.
Schedule step_decay(const StepDecay& options);
/// Half a cosine from the rate to the final rate (Loshchilov & Hutter, "SGDR: stochastic gradient
/// descent with warm restarts", 2017, without the restarts).
Schedule cosine(const Cosine& options);
/// `then`, of which the first `steps` steps are scaled by 1/steps, 2/steps, ...: the first step is
/// not lost to a rate of 0.
Schedule linear_warmup(std::int64_t steps, Schedule then);
/// Linear up, then with 1 / sqrt(step + 1) down (Vaswani et al., "Attention is all you need",
/// 2017, section 5.3, which is rate = d_model^-0.5 * warmup_steps^-0.5 here).
Schedule inverse_sqrt(const InverseSqrt& options);

}  // namespace schedule

struct ReduceOnPlateauOptions {
  double rate = 1e-3;          ///< the first
  double factor = 0.1;         ///< of the rate, in 0 to 1
  std::int64_t patience = 10;  ///< observations without improvement that are tolerated
  double threshold = 1e-4;     ///< an improvement by less than this share of the best is none
  std::int64_t cooldown = 0;   ///< observations after a reduction that are not counted
  double min_rate = 0;
  bool higher_is_better = false;
};

/// Lowers the learning rate when a metric stops improving; PyTorch's ReduceLROnPlateau.
///
///     ReduceOnPlateau plateau({.rate = 1e-3, .patience = 3});
///     optimizer.set_learning_rate(plateau.observe(validation_loss));  // once an epoch
class ReduceOnPlateau {
 public:
  /// Throws Error for options that make no sense.
  explicit ReduceOnPlateau(const ReduceOnPlateauOptions& options = {});

  /// Takes the metric in and returns the rate from now on. A metric that is NaN is no improvement.
  double observe(double metric);
  double rate() const { return rate_; }

  /// What a resumed run needs, as f64 scalars by name.
  std::map<std::string, Tensor> state_dict() const;
  /// Throws Error, and changes nothing, where a name is missing or unknown.
  void load_state_dict(const std::map<std::string, Tensor>& state);

 private:
  bool better(double metric) const;

  ReduceOnPlateauOptions options_;
  double rate_;
  double best_;
  std::int64_t bad_ = 0;      // observations without improvement
  std::int64_t cooling_ = 0;  // observations still not counted
};

}  // namespace unroll
