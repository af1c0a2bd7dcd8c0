#pragma once

#include <unroll/graph/parameter.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace unroll {

/// Parameters that share a learning rate and a weight decay; a negative number means "the
/// optimizer's".
struct ParameterGroup {
  std::vector<Parameter> parameters;
  double learning_rate = -1;
  double weight_decay = -1;
};

/// Two groups: matrices (rank >= 2) with the optimizer's weight decay, biases, gains and the like
/// without any. Decay bounds how strongly units are connected; a bias or a gain connects nothing,
/// nor does a rate of decay, which is a matrix in Mamba (A_log) and RWKV (time_...).
std::vector<ParameterGroup> decay_groups(
    const std::vector<std::pair<std::string, Parameter>>& parameters);

/// What an optimizer is: see Optimizer's constructor.
struct OptimizerRule {
  const char* name = "optimizer";    ///< for error messages
  double learning_rate = 1e-3;       ///< > 0 (or 0 where no group has its own)
  double weight_decay = 0;           ///< >= 0
  std::vector<const char*> moments;  ///< tensors kept for each parameter, under PyTorch's names
  double initial = 0;                ///< what the moments start with
  /// update() multiplies the gradient by ParameterUpdate::grad_scale. Where it does not, clipping
  /// scales the gradients in a pass of its own.
  bool scales_gradients = false;
};

/// One parameter in one step: what a rule reads and writes. All tensors have one shape and dtype.
struct ParameterUpdate {
  Tensor& value;
  const Tensor& grad;
  std::span<Tensor> moments;  ///< in the order of OptimizerRule::moments
  std::int64_t step = 1;      ///< how often this parameter has been updated, this time included
  double learning_rate = 0;
  double weight_decay = 0;
  double grad_scale = 1;  ///< see OptimizerRule::scales_gradients
};

struct StepOptions {
  /// The gradients' common norm is brought down to it as by clip_grad_norm(), in the pass that
  /// updates the parameters; the gradients themselves are then left as they are. 0: no clipping.
  double clip_norm = 0;
};

/// Changes parameters along their gradients. A rule of your own is a class with one function,
/// update(); the base keeps groups, moments and state.
///
///     for (auto [x, y] : batches) {
///       Tape tape;
///       tape.backward(loss(model(x), y));
///       optimizer.set_learning_rate(schedule(step++));
///       optimizer.step({.clip_norm = 1});
///       optimizer.zero_grad();
///     }
class Optimizer {
 public:
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;
  virtual ~Optimizer() = default;

  /// Updates, in place, every trainable parameter that has a gradient; the others, their moments
  /// and step counts stay. Throws Error or ShapeError, with nothing changed, where a gradient does
  /// not fit its parameter or memory ends, and for a clip_norm that is negative or not a number.
  /// Returns the norm of the trainable parameters' gradients before clipping, 0 without clipping;
  /// where it is not finite nothing is scaled.
  double step(const StepOptions& options = {});
  void zero_grad();

  double learning_rate() const { return learning_rate_; }
  /// Groups with a rate of their own keep its ratio to the optimizer's. Throws Error for a rate
  /// that is negative or not finite.
  void set_learning_rate(double rate);

  /// The groups with their present rates and decays.
  std::vector<ParameterGroup> groups() const;

  /// A copy of all that a resumed run needs to continue bit for bit: "learning_rate" [] f64,
  /// "steps" [parameters] i64, and "<i>.<moment>" shaped like parameter i, where i counts through
  /// the groups in order. Moments exist from a parameter's first update on.
  std::map<std::string, Tensor> state_dict() const;
  /// Throws Error, and changes nothing, where a name is missing or unknown or a shape differs; the
  /// message lists them. Moments are converted to the parameter's dtype.
  void load_state_dict(const std::map<std::string, Tensor>& state);

 protected:
  /// Throws Error for no parameter at all, one given twice, one that is not f32 or f64, and for
  /// rates or decays that are negative or not finite.
  Optimizer(const std::vector<ParameterGroup>& groups, OptimizerRule rule);

  /// Must not throw: it runs after everything has been checked and allocated.
  virtual void update(const ParameterUpdate& parameter) const = 0;

 private:
  struct Group {
    double rate_ratio;  // to learning_rate_
    double weight_decay;
  };
  struct Slot {
    Parameter parameter;
    std::size_t group;
    std::int64_t steps = 0;
    std::vector<Tensor> moments{};  // empty before the first update
  };

  void add_group(const ParameterGroup& group);
  void check(const Slot& slot, std::size_t index) const;
  std::vector<Tensor> fresh_moments(const Parameter& parameter) const;
  void prepare();
  void rehearse();
  std::pair<double, double> clip(double max_norm);

  OptimizerRule rule_;
  double learning_rate_;
  std::vector<Group> groups_;
  std::vector<Slot> slots_;
  std::shared_ptr<std::vector<Tensor>> dry_moments_;  // those of a dry run, while it lasts
};

/// Throws Error naming `op` if a parameter is undefined or occurs twice.
void check_distinct(const char* op, std::span<const Parameter> parameters);

}  // namespace unroll
