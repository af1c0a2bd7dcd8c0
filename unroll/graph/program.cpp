#include <fmt/format.h>
#include <unroll/graph/program_impl.h>

#include <cstring>

namespace unroll {
namespace {

std::size_t bytes_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel() * size_of(tensor.dtype()));
}

// Memory for a result: a fresh one where somebody holds those of the last two runs.
void make_writable(Tensor& output, Tensor& spare, const Tensor& spec) {
  if (output.unique()) return;
  std::swap(output, spare);
  if (!output.unique()) output = Tensor::empty(spec.shape(), spec.dtype());
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
    run(call);
  }
  refresh_kernels(calls);
}

void Program::Impl::refresh_kernels(std::span<const Call> some) {
  for (const Call& call : some) {
    if (call.kernel == nullptr) continue;
    for (std::uint32_t i = 0; i < call.node->input_count; ++i)
      operands[i] = places[call.node->inputs[i]];
    call.kernel->refresh(operands.data());
  }
}

void Program::Impl::set_outputs() {
  for (std::size_t i = 0; i < results.size(); ++i) {
    Result& result = results[i];
    if (!result.computed_in_place) continue;
    make_writable(outputs[i], result.spare, spec_of(result.value));
    lay(result.value, outputs[i]);
  }
  for (Carried& one : carried)
    if (one.computed_in_place) lay(one.out, one.next());
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
      make_writable(outputs[i], result.spare, slot);
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
  p.tape->redraw();
  for (const Impl::Call& call : p.calls) p.run(call);
  p.take_outputs();
  return p.outputs;
}

Tensor Program::take(std::size_t i) {
  if (i >= impl_->outputs.size())
    fail("program", fmt::format("output {} of {}", i, impl_->outputs.size()));
  return std::move(impl_->outputs[i]);
}

std::size_t Program::carried_count() const { return impl_->carried.size(); }

Tensor Program::carried(std::size_t i) {
  if (i >= impl_->carried.size())
    fail("program", fmt::format("carried input {} of {}", i, impl_->carried.size()));
  return impl_->carried[i].now();
}

const std::vector<Parameter>& Program::parameters() const { return impl_->parameters; }
std::size_t Program::planned_bytes() const { return impl_->planned; }
std::size_t Program::size() const { return impl_->calls.size(); }
bool Program::draws() const { return impl_->tape->draws(); }
const Tape& Program::tape() const { return *impl_->tape; }

}  // namespace unroll
