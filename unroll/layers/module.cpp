#include <fmt/format.h>
#include <unroll/layers/module.h>

#include <algorithm>
#include <set>

namespace unroll {
namespace {

std::string joined(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

}  // namespace

void Module::add(std::string name, Parameter& parameter) {
  parameters_.emplace_back(std::move(name), &parameter);
}

void Module::add(std::string name, Module& child) {
  if (&child == this) fail("module", "a module cannot contain itself as '" + name + "'");
  for (const auto& [known, other] : children_)
    if (known == name) fail("module", "two submodules are named '" + name + "'");
  children_.emplace_back(std::move(name), &child);
}

void Module::add(std::string name, Generator& generator) {
  generators_.emplace_back(std::move(name), &generator);
}

void Module::collect(const std::string& prefix, NamedParameters& all) const {
  for (const auto& [name, parameter] : parameters_)
    if (parameter->defined()) all.emplace_back(joined(prefix, name), *parameter);
  for (const auto& [name, child] : children_) child->collect(joined(prefix, name), all);
}

NamedParameters Module::named_parameters() const {
  NamedParameters all, once;
  collect("", all);
  std::set<const ParameterState*> seen;
  for (auto& entry : all)
    if (seen.insert(entry.second.id()).second) once.push_back(entry);
  return once;
}

std::vector<Parameter> Module::parameters() const {
  std::vector<Parameter> result;
  for (auto& [name, parameter] : named_parameters()) result.push_back(parameter);
  return result;
}

std::int64_t Module::parameter_count() const {
  std::int64_t count = 0;
  for (const auto& [name, parameter] : named_parameters()) count += parameter.numel();
  return count;
}

void Module::train(bool on) {
  training_ = on;
  for (auto& [name, child] : children_) child->train(on);
}

void Module::zero_grad() {
  for (Parameter& parameter : parameters()) parameter.zero_grad();
}

void Module::to(DType dtype) {
  for (Parameter& parameter : parameters()) {
    parameter.set_value(parameter.value().to(dtype));
    parameter.zero_grad();
  }
}

StateDict Module::state_dict() const {
  // Tied parameters stand under each of their names, as PyTorch writes them.
  NamedParameters all;
  collect("", all);
  StateDict state;
  for (const auto& [name, parameter] : all) state[name] = parameter.value().clone();
  return state;
}

void Module::load_state_dict(const StateDict& state) {
  NamedParameters all;
  collect("", all);
  std::string problems;
  std::set<std::string> known;
  for (const auto& [name, parameter] : all) {
    known.insert(name);
    const auto found = state.find(name);
    if (found == state.end()) {
      problems += fmt::format("\n  '{}' {} is missing", name, to_string(parameter.shape()));
    } else if (found->second.shape() != parameter.shape()) {
      problems += fmt::format("\n  '{}' is {} where the model has {}", name,
                              to_string(found->second.shape()), to_string(parameter.shape()));
    } else if (!is_float(found->second.dtype())) {
      problems += fmt::format("\n  '{}' is {}", name, to_string(found->second));
    }
  }
  for (const auto& [name, value] : state)
    if (!known.contains(name)) problems += fmt::format("\n  '{}' is not part of the model", name);
  if (!problems.empty()) fail("load_state_dict", "the values do not fit the model:" + problems);
  for (auto& [name, parameter] : all) parameter.set_value(state.at(name).to(parameter.dtype()));
}

std::vector<std::pair<std::string, Generator*>> Module::generators() {
  auto all = generators_;
  for (auto& [name, child] : children_)
    for (auto& [inner, generator] : child->generators())
      all.emplace_back(joined(name, inner), generator);
  return all;
}

void Module::summarize(const std::string& name, int depth, std::string& text) const {
  std::int64_t own = 0;
  std::string shapes;
  for (const auto& [key, parameter] : parameters_) {
    if (!parameter->defined()) continue;
    own += parameter->numel();
    shapes +=
        fmt::format("{}{} {}", shapes.empty() ? "" : ", ", key, to_string(parameter->shape()));
  }
  const std::string label = std::string(static_cast<std::size_t>(2 * depth), ' ') +
                            (name.empty() ? "" : name + ": ") + describe();
  text += fmt::format("{:<48} {:>10}  {}\n", label, own == 0 ? "" : fmt::format("{}", own), shapes);
  for (const auto& [key, child] : children_) child->summarize(key, depth + 1, text);
}

std::string Module::summary() const {
  std::string text = fmt::format("{:<48} {:>10}  {}\n", "layer", "parameters", "shapes");
  summarize("", 0, text);
  text += fmt::format("{:<48} {:>10}\n", "total", parameter_count());
  return text;
}

}  // namespace unroll
