#include <fmt/format.h>
#include <unroll/train/train_step.h>

#include <algorithm>
#include <cmath>

namespace unroll {

TrainStep::TrainStep(TraceFunction f, Optimizer& optimizer, const TrainStepOptions& options)
    : f_(std::move(f)), optimizer_(optimizer), options_(options) {
  if (!f_) fail("TrainStep", "the function is empty", "Give a lambda that returns the loss");
  if (options.programs < 1) fail("TrainStep", "must remember one program at least");
}

namespace {

std::vector<bool> trainable_ones(const Program& program) {
  std::vector<bool> result;
  for (const Parameter& one : program.parameters()) result.push_back(one.trainable());
  return result;
}

bool still_trains(const Program& program, const std::vector<bool>& trainable) {
  const std::vector<Parameter>& all = program.parameters();
  return std::equal(all.begin(), all.end(), trainable.begin(),
                    [](const Parameter& one, bool before) { return one.trainable() == before; });
}

}  // namespace

Program& TrainStep::program_for(std::span<const Tensor> inputs) {
  const Tape* const around = Tape::current();
  const DType precision = around != nullptr ? around->precision() : DType::f32;
  const auto fits = [&](const Entry& entry) {
    return entry.precision == precision && still_trains(entry.program, entry.trainable) &&
           std::equal(entry.inputs.begin(), entry.inputs.end(), inputs.begin(), inputs.end(),
                      [](const Spec& spec, const Tensor& input) {
                        return spec.shape == input.shape() && spec.dtype == input.dtype();
                      });
  };
  const auto found = std::find_if(programs_.begin(), programs_.end(), fits);
  if (found != programs_.end()) {
    programs_.splice(programs_.begin(), programs_, found);
    return programs_.front().program;
  }
  std::vector<Spec> specs;
  for (const Tensor& input : inputs) specs.push_back(input.spec());
  Program program = trace_gradient(f_, inputs);
  std::vector<bool> trainable = trainable_ones(program);
  programs_.push_front({std::move(specs), precision, std::move(program), std::move(trainable)});
  if (programs_.size() > options_.programs) programs_.pop_back();
  return programs_.front().program;
}

std::span<const Tensor> TrainStep::operator()(std::span<const Tensor> inputs) {
  if (!f_) fail("TrainStep", "it was moved from", "Use the one that it was moved to");
  Program& program = program_for(inputs);
  const std::span<const Tensor> results = program(inputs);
  const std::size_t outputs = results.size() - program.parameters().size();
  if (const double loss = results[0].item(); !std::isfinite(loss))
    fail("TrainStep", fmt::format("the loss is {}", loss),
         "Lower the learning rate or clip gradients; record the step on "
         "Tape({.check_numbers = true}) to see which op went wrong");
  optimizer_.zero_grad();
  for (std::size_t i = 0; i < program.parameters().size(); ++i) {
    Parameter parameter = program.parameters()[i];
    parameter.set_grad(program.take(outputs + i));
  }
  try {
    grad_norm_ = optimizer_.step({.clip_norm = options_.clip_norm});
  } catch (...) {
    optimizer_.zero_grad();  // a step recorded next would add to them
    throw;
  }
  optimizer_.zero_grad();
  return results.first(outputs);
}

}  // namespace unroll
