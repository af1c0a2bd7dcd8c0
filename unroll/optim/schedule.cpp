#include <fmt/format.h>
#include <unroll/optim/schedule.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace unroll {
namespace {

void check_rate(const char* op, double rate) {
  if (!std::isfinite(rate) || rate < 0)
    fail(op, fmt::format("rate {}", rate), "It must be a finite number, at least 0");
}

void check_count(const char* op, const char* what, std::int64_t count, std::int64_t least) {
  if (count < least) fail(op, fmt::format("{} {}; at least {}", what, count, least));
}

}  // namespace

namespace schedule {

Schedule constant(double rate) {
  check_rate("constant", rate);
  return [rate](std::int64_t) { return rate; };
}

Schedule step_decay(const StepDecay& options) {
  check_rate("step_decay", options.rate);
  check_rate("step_decay", options.factor);
  check_count("step_decay", "every", options.every, 1);
  return [options](std::int64_t step) {
    const std::int64_t drops = step / options.every;
    return options.rate * std::pow(options.factor, static_cast<double>(drops));
  };
}

Schedule cosine(const Cosine& options) {
  check_rate("cosine", options.rate);
  check_rate("cosine", options.final_rate);
  check_count("cosine", "warmup_steps", options.warmup_steps, 0);
  check_count("cosine", "steps", options.steps, options.warmup_steps + 1);
  const auto falling = [options](std::int64_t step) {
    const auto done = static_cast<double>(step - options.warmup_steps) /
                      static_cast<double>(options.steps - options.warmup_steps);
    const double share = 0.5 + 0.5 * std::cos(std::numbers::pi * std::clamp(done, 0.0, 1.0));
    return options.final_rate + (options.rate - options.final_rate) * share;
  };
  return linear_warmup(options.warmup_steps, falling);
}

Schedule linear_warmup(std::int64_t steps, Schedule then) {
  check_count("linear_warmup", "steps", steps, 0);
  if (!then) fail("linear_warmup", "no schedule to warm up");
  return [steps, then = std::move(then)](std::int64_t step) {
    const double rate = then(step);
    if (step >= steps) return rate;
    return rate * static_cast<double>(step + 1) / static_cast<double>(steps);
  };
}

Schedule inverse_sqrt(const InverseSqrt& options) {
  check_rate("inverse_sqrt", options.rate);
  check_count("inverse_sqrt", "warmup_steps", options.warmup_steps, 1);
  return [options](std::int64_t step) {
    const double done = static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps);
    return options.rate * std::min(done, 1 / std::sqrt(done));
  };
}

}  // namespace schedule

ReduceOnPlateau::ReduceOnPlateau(const ReduceOnPlateauOptions& options)
    : options_(options),
      rate_(options.rate),
      best_(options.higher_is_better ? -std::numeric_limits<double>::infinity()
                                     : std::numeric_limits<double>::infinity()) {
  check_rate("ReduceOnPlateau", options.rate);
  check_rate("ReduceOnPlateau", options.min_rate);
  if (!(options.factor >= 0 && options.factor < 1))
    fail("ReduceOnPlateau", fmt::format("factor {}", options.factor), "It lies in 0 to 1");
  if (!(options.threshold >= 0 && options.threshold < 1))
    fail("ReduceOnPlateau", fmt::format("threshold {}", options.threshold), "It lies in 0 to 1");
  check_count("ReduceOnPlateau", "patience", options.patience, 0);
  check_count("ReduceOnPlateau", "cooldown", options.cooldown, 0);
}

bool ReduceOnPlateau::better(double metric) const {
  return options_.higher_is_better ? metric > best_ * (1 + options_.threshold)
                                   : metric < best_ * (1 - options_.threshold);
}

double ReduceOnPlateau::observe(double metric) {
  if (better(metric)) {
    best_ = metric;
    bad_ = 0;
  } else {
    ++bad_;
  }
  if (cooling_ > 0) {
    --cooling_;
    bad_ = 0;
  }
  if (bad_ > options_.patience) {
    constexpr double least_change = 1e-8;  // PyTorch's: smaller reductions are not worth a change
    const double reduced = std::max(rate_ * options_.factor, options_.min_rate);
    if (rate_ - reduced > least_change) rate_ = reduced;
    cooling_ = options_.cooldown;
    bad_ = 0;
  }
  return rate_;
}

std::map<std::string, Tensor> ReduceOnPlateau::state_dict() const {
  const auto scalar = [](double x) { return Tensor::full({}, x, DType::f64); };
  return {{"rate", scalar(rate_)},
          {"best", scalar(best_)},
          {"bad", scalar(static_cast<double>(bad_))},
          {"cooling", scalar(static_cast<double>(cooling_))}};
}

void ReduceOnPlateau::load_state_dict(const std::map<std::string, Tensor>& state) {
  const auto read = [&](const char* name) {
    const auto found = state.find(name);
    if (found == state.end() || !found->second.defined())
      fail("ReduceOnPlateau", fmt::format("the state has no '{}'", name));
    return found->second.item();
  };
  const double rate = read("rate"), best = read("best"), bad = read("bad");
  const double cooling = read("cooling");
  if (state.size() != 4) fail("ReduceOnPlateau", "the state has names that are not its own");
  check_rate("ReduceOnPlateau", rate);
  if (!(bad >= 0 && bad < 1e15 && cooling >= 0 && cooling < 1e15))
    fail("ReduceOnPlateau", fmt::format("the state counts {} and {} observations", bad, cooling));
  rate_ = rate;
  best_ = best;
  bad_ = static_cast<std::int64_t>(bad);
  cooling_ = static_cast<std::int64_t>(cooling);
}

}  // namespace unroll
