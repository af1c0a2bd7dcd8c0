#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/parameter.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace unroll {

using NamedParameters = std::vector<std::pair<std::string, Parameter>>;
/// Values by name: what is saved and loaded. Names are PyTorch's: "lstm.weight_ih_l0".
using StateDict = std::map<std::string, Tensor>;

/// A layer or model: parameters and submodules under names. Derive from it, keep layers as
/// members, and register them in the constructor:
///
///     struct Tagger : Module {
///       Embedding embed; LSTM lstm; Linear head;
///       Tagger() : ... { add("embed", embed); add("lstm", lstm); add("head", head); }
///     };
///
/// A module stays where it was made (it is neither copied nor moved), since its owner refers to it.
class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  /// What it is, for the summary: "Linear(64 -> 128)".
  virtual std::string describe() const { return "Module"; }

  /// Parameters of this module and all within, by dotted name, each once (tied ones under their
  /// first name).
  NamedParameters named_parameters() const;
  std::vector<Parameter> parameters() const;
  std::int64_t parameter_count() const;

  /// Training mode (dropout active) or evaluation mode, for this module and all within.
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  void zero_grad();
  /// Converts every parameter; f64 is for checking gradients.
  void to(DType dtype);

  StateDict state_dict() const;
  /// Copies values in. Throws Error, and changes nothing, where a name is missing or unknown or a
  /// shape differs; the message lists them. A value of another float dtype is converted.
  void load_state_dict(const StateDict& state);

  /// The generators of dropout layers within, by dotted name: part of what a resumed run needs.
  std::vector<std::pair<std::string, Generator*>> generators();

  /// A table of layers, parameter shapes and counts.
  std::string summary() const;

 protected:
  void add(std::string name, Parameter& parameter);
  void add(std::string name, Module& child);
  void add(std::string name, Generator& generator);

 private:
  void collect(const std::string& prefix, NamedParameters& all) const;
  void summarize(const std::string& name, int depth, std::string& text) const;

  std::vector<std::pair<std::string, Parameter*>> parameters_;
  std::vector<std::pair<std::string, Module*>> children_;
  std::vector<std::pair<std::string, Generator*>> generators_;
  bool training_ = true;
};

}  // namespace unroll
