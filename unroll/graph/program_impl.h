#pragma once

// What a Program is made of: program_builder.cpp lays it out, program.cpp runs it.

#include <unroll/graph/program.h>

#include <array>

namespace unroll {

struct Program::Impl {
  static constexpr std::uint32_t none = ~0u;

  // A call: with a kernel on places in memory, or, where its op allocates, on tensors.
  struct Call {
    const Node* node;
    const Kernel* kernel;
    std::vector<std::uint32_t> frees;  // values nobody reads behind it
  };
  static constexpr std::uint64_t unknown_version = ~0ull;
  struct Source {  // an input or parameter
    std::uint32_t value = none;
    std::uint64_t version = 0;  // of the parameter when its weights were laid out
  };
  struct Result {
    std::uint32_t value = none;
    bool computed_in_place = false;  // by a kernel, in the output's own memory
    Tensor spare = {};               // the output before, while its receiver holds on to it
  };
  // An input that a result becomes for the next run. Two tensors take turns, or the call that
  // computes the result writes over its input.
  struct Carried {
    std::uint32_t in = none, out = none;
    bool computed_in_place = false;  // by a kernel, in the next tensor
    std::array<Tensor, 2> memory{};  // the second undefined where it is written over
    std::size_t turn = 0;            // which holds the input of the next run

    Tensor& now() { return memory[turn]; }
    Tensor& next() { return memory[1].defined() ? memory[1 - turn] : memory[0]; }
  };

  std::unique_ptr<Tape> tape = std::make_unique<Tape>(Tape::Options{.trace = true});
  Arena arena;
  ProgramOptions options;
  std::vector<Source> inputs, parameter_sources;
  std::vector<Parameter> parameters;
  std::vector<Result> results;
  std::size_t gradients = 0;  // how many of the last results are gradients
  std::vector<Carried> carried;
  std::vector<Call> fixed_calls;  // of what weights alone decide, run where these have changed
  std::vector<Call> calls;
  std::size_t forward_calls = 0;  // of these; the others are the walk back
  std::size_t planned = 0;
  Tensor memory;
  std::vector<Tensor> slots;       // by value
  std::vector<std::byte*> places;  // by value: where it lies
  std::vector<bool> takes_tensor;  // by value: its slot is read, and not its place alone
  std::vector<Tensor> outputs;
  std::vector<std::byte*> operands;    // of one call
  std::vector<const Tensor*> tensors;  // likewise

  const Tensor& spec_of(std::uint32_t value) const { return tape->value(value).tensor; }
  void put(std::uint32_t value, const Tensor& tensor) {
    slots[value] = tensor;
    places[value] = slots[value].bytes();
  }
  // What stays where it is for the length of a run.
  void lay(std::uint32_t value, Tensor& tensor) {
    places[value] = tensor.bytes();
    if (takes_tensor[value]) slots[value] = Tensor::borrowed(tensor.bytes(), tensor.spec());
  }
  void set_inputs(std::span<const Tensor> given);
  void set_parameters();
  void refresh_kernels(std::span<const Call> some,
                       void (Kernel::*how)(const std::byte* const*) const = &Kernel::refresh);
  void set_outputs();
  void make_writable(std::size_t output);
  // Where memory ends, the error names the call.
  void run(std::span<const Call> some);
  void run(const Call& call);
  void run_all();
  void take_outputs();
  // Lets go of what a run was given and of what its ops allocated.
  void clear_slots();
  // Behind a run that failed: nothing that it laid out is relied on.
  void forget();
};

}  // namespace unroll
