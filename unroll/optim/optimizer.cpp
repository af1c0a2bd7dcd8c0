#include <fmt/format.h>
#include <unroll/graph/dry_run.h>
#include <unroll/graph/threads.h>
#include <unroll/optim/clip.h>
#include <unroll/optim/optimizer.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace unroll {
namespace {

double checked(const char* op, const char* what, double value) {
  if (!std::isfinite(value) || value < 0)
    fail(op, fmt::format("{} {}", what, value), "It must be a finite number, at least 0");
  return value;
}

bool takes_part(const Parameter& parameter) {
  return parameter.trainable() && parameter.grad().defined();
}

}  // namespace

void check_distinct(const char* op, std::span<const Parameter> parameters) {
  CachedVector<const ParameterState*> ids;
  for (const Parameter& parameter : parameters) {
    if (!parameter.defined()) fail(op, "a parameter that was never given a value");
    ids.push_back(parameter.id());
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice != ids.end())
    fail(op, fmt::format("a parameter {} is given twice", to_string((*twice)->value)),
         "Module::parameters() lists tied parameters once");
}

namespace {

// Matrices that set how quickly states decay and steps are mixed, in Mamba and RWKV: their authors
// do not let them decay towards 0, which is a rate like any other.
bool is_rate(const std::string& name) {
  const std::string last = name.substr(name.rfind('.') + 1);
  return last == "A_log" || last.starts_with("time_");
}

}  // namespace

std::vector<ParameterGroup> decay_groups(
    const std::vector<std::pair<std::string, Parameter>>& parameters) {
  std::vector<ParameterGroup> groups(2);
  groups[1].weight_decay = 0;
  for (const auto& [name, parameter] : parameters)
    groups[parameter.shape().rank() >= 2 && !is_rate(name) ? 0 : 1].parameters.push_back(parameter);
  return groups;
}

Optimizer::Optimizer(const std::vector<ParameterGroup>& groups, OptimizerRule rule)
    : rule_(std::move(rule)),
      learning_rate_(checked(rule_.name, "learning rate", rule_.learning_rate)) {
  checked(rule_.name, "weight decay", rule_.weight_decay);
  std::vector<Parameter> all;
  for (const ParameterGroup& group : groups) {
    all.insert(all.end(), group.parameters.begin(), group.parameters.end());
    add_group(group);
  }
  if (all.empty()) fail(rule_.name, "no parameters to optimize");
  check_distinct(rule_.name, all);
  for (const Parameter& parameter : all)
    if (!is_float(parameter.dtype()))
      fail(rule_.name, fmt::format("a parameter {}", to_string(parameter.value())),
           "Only f32 and f64 can be optimized");
}

void Optimizer::add_group(const ParameterGroup& group) {
  double ratio = 1;
  if (group.learning_rate >= 0) {
    if (learning_rate_ == 0)
      fail(rule_.name, "a group has its own learning rate, but the optimizer's is 0",
           "A group's rate is kept relative to the optimizer's");
    ratio = checked(rule_.name, "learning rate", group.learning_rate) / learning_rate_;
  }
  const double decay = group.weight_decay >= 0
                           ? checked(rule_.name, "weight decay", group.weight_decay)
                           : rule_.weight_decay;
  for (const Parameter& parameter : group.parameters)
    slots_.push_back({.parameter = parameter, .group = groups_.size()});
  groups_.push_back({.rate_ratio = ratio, .weight_decay = decay});
}

void Optimizer::set_learning_rate(double rate) {
  learning_rate_ = checked(rule_.name, "learning rate", rate);
}

std::vector<ParameterGroup> Optimizer::groups() const {
  std::vector<ParameterGroup> result;
  for (const Group& group : groups_)
    result.push_back({.parameters = {},
                      .learning_rate = learning_rate_ * group.rate_ratio,
                      .weight_decay = group.weight_decay});
  for (const Slot& slot : slots_) result[slot.group].parameters.push_back(slot.parameter);
  return result;
}

void Optimizer::zero_grad() {
  for (Slot& slot : slots_) slot.parameter.zero_grad();
}

void Optimizer::check(const Slot& slot, std::size_t index) const {
  const Tensor& value = slot.parameter.value();
  const Tensor& grad = slot.parameter.grad();
  const auto what = [&] { return fmt::format("parameter {} is {}", index, to_string(value)); };
  if (grad.shape() != value.shape() || grad.dtype() != value.dtype())
    fail_shape(rule_.name, fmt::format("{}, its gradient {}", what(), to_string(grad)));
  if (!detail::dry && (grad.is_abstract() || value.is_abstract()))
    fail(rule_.name, what() + " or its gradient has a shape only", "Do not step while tracing");
  for (const Tensor& moment : slot.moments)
    if (moment.shape() != value.shape() || moment.dtype() != value.dtype())
      fail_shape(rule_.name, fmt::format("{}, its moments are {}", what(), to_string(moment)),
                 "Convert the model before the first step");
}

std::vector<Tensor> Optimizer::fresh_moments(const Parameter& parameter) const {
  const MemoryScope scope(MemoryKind::optimizer);
  std::vector<Tensor> moments;
  for (std::size_t i = 0; i < rule_.moments.size(); ++i)
    moments.push_back(Tensor::full(parameter.shape(), rule_.initial, parameter.dtype()));
  return moments;
}

// Allocates what a step needs. Where memory ends, nothing has changed.
void Optimizer::prepare() {
  const Slot* current = nullptr;
  try {
    for (Slot& slot : slots_) {
      if (!takes_part(slot.parameter)) continue;
      current = &slot;
      if (slot.moments.empty()) slot.moments = fresh_moments(slot.parameter);
      slot.parameter.mutable_value();  // from here on the storage is the parameter's alone
    }
  } catch (const MemoryError& error) {
    const Tensor value = current->parameter.value();
    for (Slot& slot : slots_)
      if (slot.steps == 0) slot.moments.clear();
    throw MemoryError(error, rule_.name, "a parameter " + to_string(value), Where());
  }
}

// A dry run's step: moments that do not exist yet count until its end.
void Optimizer::rehearse() {
  if (dry_moments_ == nullptr) dry_moments_ = std::make_shared<std::vector<Tensor>>();
  if (!dry_moments_->empty()) return;
  DryRun::clear_at_end(dry_moments_);
  for (const Slot& slot : slots_)
    if (takes_part(slot.parameter) && slot.moments.empty())
      for (Tensor& moment : fresh_moments(slot.parameter))
        dry_moments_->push_back(std::move(moment));
}

// Clips by scaling the gradients where the rule does not do so itself. Returns the norm, and what
// the rule is to scale them by.
std::pair<double, double> Optimizer::clip(double max_norm) {
  double sum = 0;
  for (const Slot& slot : slots_)
    if (takes_part(slot.parameter)) sum += squared_norm(slot.parameter.grad());
  const double norm = std::sqrt(sum);
  if (!std::isfinite(norm))
    fail(rule_.name, fmt::format("the norm of the gradients is {}", norm),
         "Nothing has been changed. Lower the learning rate; record the step on "
         "Tape({.check_numbers = true}) to see which op went wrong");
  if (rule_.scales_gradients) return {norm, clip_factor(norm, max_norm)};
  std::vector<Parameter> parameters;
  for (const Slot& slot : slots_)
    if (takes_part(slot.parameter)) parameters.push_back(slot.parameter);
  clip_grad_norm(parameters, max_norm);
  return {norm, 1.0};
}

double Optimizer::step(const StepOptions& options) {
  // All that can fail comes first.
  checked(rule_.name, "clip_norm", options.clip_norm);
  for (std::size_t i = 0; i < slots_.size(); ++i)
    if (takes_part(slots_[i].parameter)) check(slots_[i], i);
  if (detail::dry) {
    rehearse();
    return 0;
  }
  prepare();
  const detail::FlushDenormals flush;  // here as in the threads that parallel_for starts
  const auto [norm, scale] = options.clip_norm > 0 ? clip(options.clip_norm) : std::pair(0.0, 1.0);
  for (Slot& slot : slots_) {
    if (!takes_part(slot.parameter)) continue;
    const Group& group = groups_[slot.group];
    update({.value = slot.parameter.state()->value,
            .grad = slot.parameter.grad(),
            .moments = slot.moments,
            .step = ++slot.steps,
            .learning_rate = learning_rate_ * group.rate_ratio,
            .weight_decay = group.weight_decay,
            .grad_scale = scale});
  }
  return norm;
}

std::map<std::string, Tensor> Optimizer::state_dict() const {
  std::map<std::string, Tensor> state;
  std::vector<std::int64_t> steps;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    steps.push_back(slot.steps);
    if (slot.steps == 0) continue;
    for (std::size_t m = 0; m < slot.moments.size(); ++m)
      state[fmt::format("{}.{}", i, rule_.moments[m])] = slot.moments[m].clone();
  }
  state["steps"] = Tensor::from(steps, {static_cast<std::int64_t>(steps.size())});
  state["learning_rate"] = Tensor::full({}, learning_rate_, DType::f64);
  return state;
}

void Optimizer::load_state_dict(const std::map<std::string, Tensor>& state) {
  std::string problems;
  std::set<std::string> known;
  const auto find = [&](const std::string& name, const Shape& shape, auto fits) {
    known.insert(name);
    const auto found = state.find(name);
    if (found == state.end()) {
      problems += fmt::format("\n  '{}' {} is missing", name, to_string(shape));
    } else if (const Tensor& value = found->second; !value.defined() || value.is_abstract() ||
                                                    value.shape() != shape ||
                                                    !fits(value.dtype())) {
      problems += fmt::format("\n  '{}' is {}, not of shape {} or of another kind", name,
                              to_string(value), to_string(shape));
    } else {
      return value;
    }
    return Tensor();
  };
  const auto fail_if_any = [&] {
    if (!problems.empty())
      fail(rule_.name, "the state does not fit the optimizer and its parameters:" + problems);
  };

  const Tensor rate = find("learning_rate", {}, is_float);
  const Tensor steps = find("steps", {static_cast<std::int64_t>(slots_.size())},
                            [](DType dtype) { return dtype == DType::i64; });
  fail_if_any();
  checked(rule_.name, "the state's learning rate", rate.item());

  const MemoryScope scope(MemoryKind::optimizer);
  std::vector<std::vector<Tensor>> moments(slots_.size());
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const std::int64_t count = steps.data<std::int64_t>()[i];
    if (count < 0) problems += fmt::format("\n  'steps' is {} for parameter {}", count, i);
    if (count <= 0) continue;
    const Parameter& parameter = slots_[i].parameter;
    for (const char* name : rule_.moments) {
      const Tensor value = find(fmt::format("{}.{}", i, name), parameter.shape(), is_float);
      // A copy of our own: step() writes into it.
      if (value.defined())
        moments[i].push_back(value.dtype() == parameter.dtype() ? value.clone()
                                                                : value.to(parameter.dtype()));
    }
  }
  for (const auto& [name, value] : state)
    if (!known.contains(name)) problems += fmt::format("\n  '{}' is unknown", name);
  fail_if_any();

  learning_rate_ = rate.item();
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].steps = steps.data<std::int64_t>()[i];
    slots_[i].moments = std::move(moments[i]);
  }
}

}  // namespace unroll
