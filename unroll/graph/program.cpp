#include <fmt/format.h>
#include <unroll/graph/memory_plan.h>
#include <unroll/graph/program.h>

#include <algorithm>
#include <array>

namespace unroll {
namespace {

constexpr std::uint32_t none = ~0u;

}  // namespace

struct Program::Impl {
  // A call: with a kernel on places in memory, or, where its op allocates, on tensors.
  struct Call {
    const Node* node;
    const Kernel* kernel;
    std::vector<std::uint32_t> frees;  // values nobody reads behind it
  };
  struct Source {  // an input or parameter
    std::uint32_t value = none;
    std::uint64_t version = 0;  // of the parameter when its weights were laid out
  };
  struct Result {
    std::uint32_t value = none;
    bool computed_in_place = false;  // by a kernel, in the output's own memory
  };

  std::unique_ptr<Tape> tape = std::make_unique<Tape>(Tape::Options{.trace = true});
  Arena arena;
  ProgramOptions options;
  std::vector<Source> inputs, parameter_sources;
  std::vector<Parameter> parameters;
  std::vector<Result> results;
  std::vector<Call> calls;
  std::size_t planned = 0, most_operands = 0;
  Tensor memory;
  std::vector<Tensor> slots;       // by value
  std::vector<std::byte*> places;  // by value: where it lies
  std::vector<Tensor> outputs;

  const Tensor& spec_of(std::uint32_t value) const { return tape->value(value).tensor; }
  void put(std::uint32_t value, const Tensor& tensor) {
    slots[value] = tensor;
    places[value] = slots[value].bytes();
  }
  void set_inputs(std::span<const Tensor> given);
  void set_parameters();
  void set_outputs();
  void run(const Call& call, std::span<std::byte*> scratch);
  void take_outputs();
};

void Program::Impl::set_inputs(std::span<const Tensor> given) {
  if (given.size() != inputs.size())
    fail("program", fmt::format("{} inputs for {} traced ones", given.size(), inputs.size()));
  for (std::size_t i = 0; i < given.size(); ++i) {
    const Tensor& traced = spec_of(inputs[i].value);
    if (!given[i].defined() || given[i].is_abstract() || given[i].shape() != traced.shape() ||
        given[i].dtype() != traced.dtype())
      fail_shape(
          "program",
          fmt::format("input {} is {}, traced as {}", i, to_string(given[i]), to_string(traced)),
          "Trace the function again for other shapes");
    if (const Tape* current = Tape::current(); current != nullptr && current->needs_grad(given[i]))
      fail("program", fmt::format("input {} {} is recorded on a tape", i, to_string(given[i])),
           "No gradient flows through a run; call the function itself, or detach() the input");
  }
  for (std::size_t i = 0; i < given.size(); ++i) put(inputs[i].value, given[i]);
}

void Program::Impl::set_parameters() {
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const ParameterState& state = *parameters[i].state();
    const std::uint32_t value = parameter_sources[i].value;
    if (state.value.shape() != spec_of(value).shape() ||
        state.value.dtype() != spec_of(value).dtype())
      fail_shape("program", fmt::format("parameter {} is {}, traced as {}", i,
                                        to_string(state.value), to_string(spec_of(value))));
    put(value, state.value);
  }
  if (!options.keep_weights) return;
  bool changed = false;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::uint64_t version = parameters[i].state()->version;
    changed = changed || version != parameter_sources[i].version;
    parameter_sources[i].version = version;
  }
  if (!changed) return;
  std::vector<const std::byte*> in(most_operands);
  for (const Call& call : calls) {
    if (call.kernel == nullptr) continue;
    for (std::uint32_t i = 0; i < call.node->input_count; ++i) in[i] = places[call.node->inputs[i]];
    call.kernel->refresh(in.data());
  }
}

// A result gets memory of its own; a fresh one where somebody holds that of the last run.
void Program::Impl::set_outputs() {
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!results[i].computed_in_place) continue;
    const Tensor& spec = spec_of(results[i].value);
    if (!outputs[i].unique()) outputs[i] = Tensor::empty(spec.shape(), spec.dtype());
    places[results[i].value] = outputs[i].bytes();
    slots[results[i].value] = Tensor::borrowed(outputs[i].bytes(), spec.spec());
  }
}

void Program::Impl::run(const Call& call, std::span<std::byte*> scratch) {
  const Node& node = *call.node;
  if (call.kernel != nullptr) {
    std::byte** const in = scratch.data();
    std::byte** const out = in + node.input_count;
    for (std::uint32_t i = 0; i < node.input_count; ++i) in[i] = places[node.inputs[i]];
    for (std::uint32_t o = 0; o < node.output_count; ++o) out[o] = places[node.first_output + o];
    call.kernel->run(in, out);
  } else {
    CachedVector<const Tensor*> in(node.input_count);
    for (std::uint32_t i = 0; i < node.input_count; ++i) in[i] = &slots[node.inputs[i]];
    const std::span<Tensor> out(&slots[node.first_output], node.output_count);
    node.op->forward(Args(in), out);
    for (std::uint32_t o = 0; o < node.output_count; ++o)
      places[node.first_output + o] = out[o].bytes();
  }
  for (std::uint32_t value : call.frees) slots[value] = {};
}

void Program::Impl::take_outputs() {
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (results[i].computed_in_place || results[i].value == none) continue;
    const Tensor& slot = slots[results[i].value];
    // What lies in planned memory must leave it.
    const bool borrowed = slot.borrows();
    outputs[i] = (borrowed ? slot.clone() : slot).detach();
  }
  for (const Source& source : inputs) slots[source.value] = {};
  for (const Source& source : parameter_sources) slots[source.value] = {};
  for (const Call& call : calls)
    if (call.kernel == nullptr)
      for (std::uint32_t o = 0; o < call.node->output_count; ++o)
        slots[call.node->first_output + o] = {};
}

Program::Program(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Program::Program(Program&&) noexcept = default;
Program& Program::operator=(Program&&) noexcept = default;
Program::~Program() = default;

std::span<const Tensor> Program::operator()(std::span<const Tensor> inputs) {
  Impl& p = *impl_;
  p.set_inputs(inputs);
  const NoGrad unrecorded;
  const detail::FlushDenormals flush;
  p.set_parameters();
  p.set_outputs();
  std::array<std::byte*, 32> few;
  CachedVector<std::byte*> many(p.most_operands > few.size() ? p.most_operands : 0);
  const std::span<std::byte*> scratch = many.empty() ? std::span<std::byte*>(few) : many;
  for (const Impl::Call& call : p.calls) p.run(call, scratch);
  p.take_outputs();
  return p.outputs;
}

Tensor Program::take(std::size_t i) {
  if (i >= impl_->outputs.size())
    fail("program", fmt::format("output {} of {}", i, impl_->outputs.size()));
  return std::move(impl_->outputs[i]);
}

const std::vector<Parameter>& Program::parameters() const { return impl_->parameters; }
std::size_t Program::planned_bytes() const { return impl_->planned; }
std::size_t Program::size() const { return impl_->calls.size(); }
const Tape& Program::tape() const { return *impl_->tape; }

/// Traces a function and lays the program out.
class ProgramBuilder {
 public:
  ProgramBuilder(const ProgramOptions& options, const Where& where) : where_(where) {
    p_.options = options;
  }

  Program build(const TraceFunction& f, std::span<const Tensor> examples, bool gradient) {
    // The tape was made, and became current, with the program's state.
    std::vector<Tensor> in, out;
    for (const Tensor& example : examples) {
      if (!example.defined()) fail("trace", "an undefined example input", where_);
      in.push_back(p_.tape->input(Tensor::abstract(example.shape(), example.dtype()), false));
      p_.inputs.push_back({in.back().ref().value});
    }
    out = f(in);
    if (gradient) add_gradients(out);
    p_.tape->stop();
    check_nodes();
    find_parameters();
    if (gradient) order_gradients(out);
    for (const Tensor& tensor : out) p_.results.push_back({id_of(tensor)});
    choose_calls();
    plan_memory();
    bind();
    return Program(std::move(impl_));
  }

 private:
  Tape& tape() { return *p_.tape; }

  void add_gradients(std::vector<Tensor>& out) {
    if (out.empty() || out[0].numel() != 1)
      fail("trace", "the first output must be a loss of one element", where_,
           "Reduce it with sum() or mean()");
    if (!tape().needs_grad(out[0]))
      fail("trace", "the loss depends on no trainable parameter", where_);
    std::vector<Tensor> leaves;
    const std::size_t nodes = tape().size();
    for (std::size_t n = 0; n < nodes; ++n)
      if (tape().node(n).parameter != nullptr && tape().node(n).needs_grad)
        leaves.push_back(tape().value(tape().node(n).first_output).tensor);
    gradients_ =
        tape().gradient(std::span(out.data(), 1), leaves, {.create_graph = true, .zeros = false});
    leaves_ = std::move(leaves);
  }

  void order_gradients(std::vector<Tensor>& out) {
    for (const auto& source : p_.parameter_sources) {
      Tensor gradient;  // undefined for a frozen parameter
      for (std::size_t i = 0; i < leaves_.size(); ++i)
        if (leaves_[i].ref().value == source.value) gradient = gradients_[i];
      out.push_back(gradient);
    }
  }

  void check_nodes() {
    for (std::size_t n = 0; n < tape().size(); ++n) {
      const Node& node = tape().node(n);
      if (node.foreign != nullptr)
        fail("trace",
             fmt::format("a value {} of another tape is used as if it were a constant",
                         to_string(*node.foreign)),
             where_, "Pass it as an input");
      if (node.op != nullptr && node.op->random())
        fail("trace",
             fmt::format("'{}' draws random numbers, and every run would draw the same",
                         node.op->name()),
             node.where, "Put the model into eval(), or run it without a program");
    }
  }

  void find_parameters() {
    for (std::size_t n = 0; n < tape().size(); ++n) {
      const Node& node = tape().node(n);
      if (node.parameter == nullptr) continue;
      p_.parameters.emplace_back(*node.parameter);
      p_.parameter_sources.push_back({node.first_output, (*node.parameter)->version});
    }
  }

  // The id of a result; one that the trace does not know is a constant.
  std::uint32_t id_of(const Tensor& tensor) {
    if (!tensor.defined()) return none;
    if (tape().owns(tensor)) return tensor.ref().value;
    fail("trace", fmt::format("the output {} does not depend on an input", to_string(tensor)),
         where_, "It is a constant: return it from outside");
  }

  void choose_calls() {
    std::vector<bool> used(tape().size(), false);
    for (const auto& result : p_.results)
      if (result.value != none) used[tape().value(result.value).producer] = true;
    for (std::size_t n = tape().size(); n-- > 0;) {
      const Node& node = tape().node(n);
      if (!used[n] || node.op == nullptr) continue;
      for (std::uint32_t i = 0; i < node.input_count; ++i)
        if (const Value& value = tape().value(node.inputs[i]); value.producer != Value::constant)
          used[value.producer] = true;
    }
    for (std::size_t n = 0; n < tape().size(); ++n) {
      const Node& node = tape().node(n);
      if (!used[n] || node.op == nullptr) continue;
      p_.calls.push_back({&node, nullptr, {}});
      p_.most_operands =
          std::max<std::size_t>(p_.most_operands, node.input_count + node.output_count);
    }
  }

  void plan_memory() {
    const std::size_t values = tape().value_count();
    p_.slots.resize(values);
    p_.places.resize(values, nullptr);
    p_.outputs.resize(p_.results.size());
    // The call behind which nobody reads a value.
    std::vector<std::size_t> last(values, 0);
    for (std::size_t c = p_.calls.size(); c-- > 0;) {
      const Node& node = *p_.calls[c].node;
      std::size_t end = c;
      // A result of an op that allocates may be a view of an input.
      if (node.op->allocates())
        for (std::uint32_t o = 0; o < node.output_count; ++o)
          end = std::max(end, last[node.first_output + o]);
      for (std::uint32_t i = 0; i < node.input_count; ++i)
        last[node.inputs[i]] = std::max(last[node.inputs[i]], end);
    }
    std::vector<bool> leaves_program(values, false);
    for (auto& result : p_.results) {
      if (result.value == none) continue;
      const std::uint32_t producer = tape().value(result.value).producer;
      const Op* op = tape().node(producer).op;
      result.computed_in_place = op != nullptr && !op->allocates() && !leaves_program[result.value];
      leaves_program[result.value] = true;
      extend_aliases(result.value, last);
    }
    std::vector<PlannedBlock> blocks;
    std::vector<std::uint32_t> owners;
    for (std::size_t c = 0; c < p_.calls.size(); ++c) {
      const Node& node = *p_.calls[c].node;
      for (std::uint32_t o = 0; o < node.output_count; ++o) {
        const std::uint32_t value = node.first_output + o;
        const Tensor& spec = p_.spec_of(value);
        if (node.op->allocates()) {
          free_behind(value, std::max(last[value], c), leaves_program[value]);
        } else if (!leaves_program[value]) {
          blocks.push_back({static_cast<std::size_t>(spec.numel() * size_of(spec.dtype())), c,
                            std::max(last[value], c)});
          owners.push_back(value);
        }
      }
    }
    p_.planned = plan_offsets(blocks);
    p_.memory = Tensor::empty({static_cast<std::int64_t>(p_.planned)}, DType::u8);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      p_.places[owners[i]] = p_.memory.bytes() + blocks[i].offset;
      p_.slots[owners[i]] = Tensor::borrowed(p_.places[owners[i]], p_.spec_of(owners[i]).spec());
    }
  }

  // What leaves the program as a view of planned memory is copied at the end: its memory lasts.
  void extend_aliases(std::uint32_t value, std::vector<std::size_t>& last) {
    last[value] = p_.calls.size();
    const std::uint32_t producer = tape().value(value).producer;
    if (producer == Value::constant) return;
    const Node& node = tape().node(producer);
    if (node.op == nullptr || !node.op->allocates()) return;
    for (std::uint32_t i = 0; i < node.input_count; ++i) extend_aliases(node.inputs[i], last);
  }

  void free_behind(std::uint32_t value, std::size_t call, bool leaves_program) {
    if (leaves_program || call >= p_.calls.size()) return;
    p_.calls[call].frees.push_back(value);
  }

  void bind() {
    for (std::uint32_t value = 0; value < tape().value_count(); ++value)
      if (tape().value(value).producer == Value::constant) {
        if (p_.spec_of(value).is_abstract()) fail("trace", "a constant has no data", where_);
        p_.put(value, p_.spec_of(value));
      }
    if (p_.options.keep_weights)
      for (std::size_t i = 0; i < p_.parameters.size(); ++i)
        p_.put(p_.parameter_sources[i].value, p_.parameters[i].value());
    for (auto& call : p_.calls) {
      const Node& node = *call.node;
      if (node.op->allocates()) continue;
      std::vector<const Tensor*> in;
      const std::unique_ptr<bool[]> fixed(new bool[node.input_count]);
      for (std::uint32_t i = 0; i < node.input_count; ++i) {
        const std::uint32_t value = node.inputs[i];
        const std::uint32_t producer = tape().value(value).producer;
        fixed[i] = producer == Value::constant ||
                   (p_.options.keep_weights && tape().node(producer).parameter != nullptr);
        in.push_back(fixed[i] ? &p_.slots[value] : &p_.spec_of(value));
      }
      call.kernel = node.op->bind(Args(in), {fixed.get(), node.input_count}, p_.arena);
    }
    for (const auto& source : p_.parameter_sources) p_.slots[source.value] = {};
  }

  std::unique_ptr<Program::Impl> impl_ = std::make_unique<Program::Impl>();
  Program::Impl& p_ = *impl_;
  Where where_;
  std::vector<Tensor> leaves_, gradients_;
};

Program trace(const TraceFunction& f, std::span<const Tensor> examples,
              const ProgramOptions& options, Where where) {
  return ProgramBuilder(options, where).build(f, examples, false);
}

Program trace_gradient(const TraceFunction& f, std::span<const Tensor> examples,
                       const ProgramOptions& options, Where where) {
  return ProgramBuilder(options, where).build(f, examples, true);
}

}  // namespace unroll
