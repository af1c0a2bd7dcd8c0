#include <fmt/format.h>
#include <unroll/graph/bytes.h>
#include <unroll/graph/program_impl.h>

#include <cstring>

namespace unroll {
namespace {

// What recording's error tells, of a call in a run.
[[noreturn]] void rethrow(const MemoryError& error, const Tape& tape, const Node& node) {
  std::string shapes;
  for (std::uint32_t i = 0; i < node.input_count; ++i)
    shapes += (i == 0 ? "" : ", ") + to_string(tape.value(node.inputs[i]).tensor);
  throw MemoryError(error, node.op->name(), shapes, node.where);
}

}  // namespace

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
  for (Carried& one : carried) lay(one.in, one.now());
}

void Program::Impl::set_parameters() {
  bool changed = false;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    ParameterState& state = *parameters[i].state();
    Source& source = parameter_sources[i];
    const bool same =
        state.version == source.version && places[source.value] == state.value.bytes();
    if (same && !takes_tensor[source.value]) continue;
    const Tensor& traced = spec_of(source.value);
    if (state.value.shape() != traced.shape() || state.value.dtype() != traced.dtype())
      fail_shape("program", fmt::format("parameter {} is {}, traced as {}", i,
                                        to_string(state.value), to_string(traced)));
    put(source.value, state.value);
    changed = changed || !same;
    source.version = state.version;
  }
  if (!options.keep_weights || !changed) return;
  for (const Call& call : fixed_calls) {
    refresh_kernels({&call, 1});
    run({&call, 1});
  }
  refresh_kernels(calls);
}

void Program::Impl::refresh_kernels(std::span<const Call> some,
                                    void (Kernel::*how)(const std::byte* const*) const) {
  for (const Call& call : some) {
    if (call.kernel == nullptr) continue;
    for (std::uint32_t i = 0; i < call.node->input_count; ++i)
      operands[i] = places[call.node->inputs[i]];
    try {
      (call.kernel->*how)(operands.data());
    } catch (const MemoryError& error) {
      rethrow(error, *tape, *call.node);
    }
  }
}

void Program::Impl::set_outputs() {
  for (std::size_t i = 0; i < results.size(); ++i) {
    Result& result = results[i];
    if (!result.computed_in_place) continue;
    make_writable(i);
    lay(result.value, outputs[i]);
  }
  for (Carried& one : carried)
    if (one.computed_in_place) lay(one.out, one.next());
}

// Memory for a result: a fresh one where somebody holds those of the last two runs.
void Program::Impl::make_writable(std::size_t output) {
  const std::uint32_t value = results[output].value;
  if (outputs[output].unique()) return;
  std::swap(outputs[output], results[output].spare);
  if (outputs[output].unique()) return;
  const bool gradient = output + gradients >= results.size();
  const MemoryScope scope(gradient ? MemoryKind::gradient : MemoryKind::value);
  try {
    outputs[output] = Tensor::empty(spec_of(value).shape(), spec_of(value).dtype());
  } catch (const MemoryError& error) {
    rethrow(error, *tape, tape->node(tape->value(value).producer));
  }
}

void Program::Impl::run(std::span<const Call> some) {
  std::size_t at = 0;
  try {
    for (; at < some.size(); ++at) run(some[at]);
  } catch (const MemoryError& error) {
    rethrow(error, *tape, *some[at].node);
  }
}

void Program::Impl::run_all() {
  const std::span<const Call> all(calls);
  run(all.first(forward_calls));
  const MemoryScope scope(MemoryKind::gradient);
  run(all.subspan(forward_calls));
}

void Program::Impl::run(const Call& call) {
  const Node& node = *call.node;
  if (call.kernel != nullptr) {
    std::byte** const in = operands.data();
    std::byte** const out = in + node.input_count;
    for (std::uint32_t i = 0; i < node.input_count; ++i) in[i] = places[node.inputs[i]];
    for (std::uint32_t o = 0; o < node.output_count; ++o) out[o] = places[node.first_output + o];
    call.kernel->run(in, out);
  } else {
    for (std::uint32_t i = 0; i < node.input_count; ++i) tensors[i] = &slots[node.inputs[i]];
    const std::span<Tensor> out(&slots[node.first_output], node.output_count);
    node.op->forward(Args(std::span<const Tensor* const>(tensors.data(), node.input_count)), out);
    for (std::uint32_t o = 0; o < node.output_count; ++o)
      places[node.first_output + o] = out[o].bytes();
  }
  for (std::uint32_t value : call.frees) slots[value] = {};
}

void Program::Impl::take_outputs() {
  for (std::size_t i = 0; i < results.size(); ++i) {
    Result& result = results[i];
    if (result.computed_in_place || result.value == none) continue;
    const Tensor& slot = slots[result.value];
    if (slot.borrows()) {  // it lies in the program's memory, and must leave that
      make_writable(i);
      std::memcpy(outputs[i].bytes(), slot.bytes(), bytes_of(slot));
    } else {
      outputs[i] = slot.detach();
    }
  }
  for (Carried& one : carried) {
    if (!one.computed_in_place)
      std::memcpy(one.next().bytes(), places[one.out], bytes_of(one.next()));
  }
  for (Carried& one : carried)
    if (one.memory[1].defined()) one.turn = 1 - one.turn;
  clear_slots();
}

void Program::Impl::clear_slots() {
  for (const Source& source : inputs) slots[source.value] = {};
  for (const Source& source : parameter_sources) slots[source.value] = {};
  for (const Call& call : calls)
    if (call.kernel == nullptr)
      for (std::uint32_t o = 0; o < call.node->output_count; ++o)
        slots[call.node->first_output + o] = {};
}

void Program::Impl::forget() {
  clear_slots();
  for (Source& source : parameter_sources) source.version = unknown_version;
}

Program::Program(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Program::Program(Program&&) noexcept = default;
Program& Program::operator=(Program&&) noexcept = default;
Program::~Program() = default;

Program::Impl& Program::impl() const {
  if (impl_ == nullptr) fail("program", "it was moved from", "Use the one that it was moved to");
  return *impl_;
}

std::span<const Tensor> Program::operator()(std::span<const Tensor> inputs) {
  Impl& p = impl();
  p.set_inputs(inputs);
  const NoGrad unrecorded;
  const detail::FlushDenormals flush;
  bool drawn = false;
  try {
    p.set_parameters();
    p.set_outputs();
    p.tape->redraw();
    drawn = true;
    p.run_all();
    p.take_outputs();
  } catch (...) {
    p.forget();
    if (drawn) p.tape->undo_redraw();
    throw;
  }
  return p.outputs;
}

Tensor Program::take(std::size_t i) {
  std::vector<Tensor>& outputs = impl().outputs;
  if (i >= outputs.size()) fail("program", fmt::format("output {} of {}", i, outputs.size()));
  return std::move(outputs[i]);
}

std::size_t Program::carried_count() const { return impl().carried.size(); }

Tensor Program::carried(std::size_t i) {
  std::vector<Impl::Carried>& carried = impl().carried;
  if (i >= carried.size())
    fail("program", fmt::format("carried input {} of {}", i, carried.size()));
  return carried[i].now();
}

const std::vector<Parameter>& Program::parameters() const { return impl().parameters; }
std::size_t Program::planned_bytes() const { return impl().planned; }
std::size_t Program::size() const { return impl().calls.size(); }
bool Program::draws() const { return impl().tape->draws(); }
const Tape& Program::tape() const { return *impl().tape; }

}  // namespace unroll
