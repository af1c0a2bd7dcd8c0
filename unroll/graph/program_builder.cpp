#include <fmt/format.h>
#include <unroll/graph/bytes.h>
#include <unroll/graph/memory_plan.h>
#include <unroll/graph/program_impl.h>

#include <algorithm>

namespace unroll {

/// Traces a function and lays the program out.
class ProgramBuilder {
 public:
  ProgramBuilder(const ProgramOptions& options, const Where& where) : where_(where) {
    p_.options = options;
  }

  Program build(const TraceFunction& f, std::span<const Tensor> examples, bool gradient) {
    // The tape was made, and became current, with the program's state.
    std::vector<Tensor> in, out;
    const std::size_t carried = p_.options.carried;
    if (carried > examples.size() || (gradient && carried > 0))
      fail("trace",
           fmt::format("{} carried inputs of {}{}", carried, examples.size(),
                       gradient ? ", and a gradient" : ""),
           where_);
    for (const Tensor& example : examples) {
      if (!example.defined()) fail("trace", "an undefined example input", where_);
      in.push_back(p_.tape->input(Tensor::abstract(example.shape(), example.dtype()), false));
      p_.inputs.push_back({in.back().ref().value()});
    }
    out = f(in);
    forward_nodes_ = tape().size();
    if (gradient) add_gradients(out);
    p_.tape->stop();
    check_nodes();
    find_parameters();
    if (gradient) {
      order_gradients(out);
      p_.gradients = p_.parameters.size();
    }
    split_carried(out);
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
        if (leaves_[i].ref().value() == source.value) gradient = gradients_[i];
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
    if (!tensor.defined()) return Program::Impl::none;
    if (tape().owns(tensor)) return tensor.ref().value();
    fail("trace", fmt::format("the output {} does not depend on an input", to_string(tensor)),
         where_, "It is a constant: return it from outside");
  }

  // The last inputs and outputs are what the program keeps to itself.
  void split_carried(std::vector<Tensor>& out) {
    const std::size_t carried = p_.options.carried;
    if (out.size() < carried)
      fail("trace", fmt::format("{} outputs, of which {} are carried", out.size(), carried),
           where_);
    for (std::size_t i = 0; i < carried; ++i) {
      const Tensor& last = out[out.size() - carried + i];
      Program::Impl::Carried one{.in = p_.inputs[p_.inputs.size() - carried + i].value,
                                 .out = id_of(last)};
      const Tensor& before = p_.spec_of(one.in);
      if (one.out == Program::Impl::none || last.shape() != before.shape() ||
          last.dtype() != before.dtype())
        fail_shape("trace",
                   fmt::format("carried input {} is {}, and becomes {}", i, to_string(before),
                               to_string(last)),
                   "What is carried keeps its shape and dtype");
      p_.carried.push_back(std::move(one));
    }
    out.resize(out.size() - carried);
    p_.inputs.resize(p_.inputs.size() - carried);
  }

  void choose_calls() {
    std::vector<bool> used(tape().size(), false);
    const auto use = [&](std::uint32_t value) {
      if (const std::uint32_t producer = tape().value(value).producer; producer != Value::constant)
        used[producer] = true;
    };
    for (const auto& one : p_.carried) use(one.out);
    for (const auto& result : p_.results)
      if (result.value != Program::Impl::none) use(result.value);
    for (std::size_t n = tape().size(); n-- > 0;) {
      const Node& node = tape().node(n);
      if (!used[n] || node.op == nullptr) continue;
      for (std::uint32_t i = 0; i < node.input_count; ++i) use(node.inputs[i]);
    }
    const std::size_t values = tape().value_count();
    fixed_.resize(values, false);
    p_.takes_tensor.resize(values, false);
    for (std::uint32_t value = 0; value < values; ++value) fixed_[value] = is_weight(value);
    std::size_t most = 0;
    for (std::size_t n = 0; n < tape().size(); ++n) {
      const Node& node = tape().node(n);
      if (!used[n] || node.op == nullptr) continue;
      const std::span<const std::uint32_t> in(node.inputs, node.input_count);
      // Constants by themselves are nothing to keep up with, but one call more or less.
      const bool fixed = p_.options.keep_weights && !node.op->random() &&
                         std::all_of(in.begin(), in.end(), [&](auto i) { return fixed_[i]; });
      (fixed ? p_.fixed_calls : p_.calls).push_back({&node, nullptr, {}});
      if (n < forward_nodes_) p_.forward_calls = p_.calls.size();
      for (std::uint32_t o = 0; o < node.output_count; ++o) fixed_[node.first_output + o] = fixed;
      if (node.op->allocates())
        for (const std::uint32_t i : in) p_.takes_tensor[i] = true;
      most = std::max<std::size_t>(most, node.input_count + node.output_count);
    }
    p_.operands.resize(most);
    p_.tensors.resize(most);
  }

  bool is_weight(std::uint32_t value) {
    const std::uint32_t producer = tape().value(value).producer;
    return producer == Value::constant ||
           (p_.options.keep_weights && tape().node(producer).parameter != nullptr);
  }

  // Does the call that gives a carried result write it over the input that it replaces? Nobody
  // else may read that.
  bool written_over(const Program::Impl::Carried& one) {
    const std::uint32_t producer = tape().value(one.out).producer;
    if (producer == Value::constant) return false;
    const Node& node = tape().node(producer);
    if (node.op == nullptr || node.op->allocates() || node.first_output != one.out) return false;
    for (const auto& call : p_.calls)
      for (std::uint32_t i = 0; i < call.node->input_count; ++i)
        if (call.node->inputs[i] == one.in && call.node != &node) return false;
    for (const auto& result : p_.results)
      if (result.value == one.in) return false;
    for (const auto& other : p_.carried)
      if (other.out == one.in) return false;
    std::vector<const Tensor*> in;
    std::uint32_t places = 0;
    for (std::uint32_t i = 0; i < node.input_count; ++i) {
      in.push_back(&p_.spec_of(node.inputs[i]));
      if (node.inputs[i] == one.in) places |= 1u << i;
    }
    return (places & (places - 1)) == 0 && (node.op->in_place(Args(in), 0) & places) != 0;
  }

  // A kernel can write a result where it is to lie, for one receiver.
  bool claim(std::uint32_t value, std::vector<bool>& leaves_program) {
    if (value == Program::Impl::none) return false;
    const std::uint32_t producer = tape().value(value).producer;
    const Op* op = producer == Value::constant ? nullptr : tape().node(producer).op;
    const bool free = op != nullptr && !op->allocates() && !fixed_[value] && !leaves_program[value];
    if (free) leaves_program[value] = true;
    return free;
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
    // What is in no kernel's reach until the end: results that are copied or handed on there.
    std::vector<bool> leaves_program(values, false), placed(values, false);
    for (auto& one : p_.carried) {
      const Tensor& spec = p_.spec_of(one.in);
      one.computed_in_place = claim(one.out, placed);
      one.memory[0] = Tensor::zeros(spec.shape(), spec.dtype());
      if (!(one.computed_in_place && written_over(one)))
        one.memory[1] = Tensor::zeros(spec.shape(), spec.dtype());
      if (!one.computed_in_place) leaves_program[one.out] = true;
      extend_aliases(one.out, last);
    }
    for (auto& result : p_.results) {
      if (result.value == Program::Impl::none) continue;
      result.computed_in_place = claim(result.value, placed);
      if (!result.computed_in_place) p_.takes_tensor[result.value] = true;
      leaves_program[result.value] = true;
      extend_aliases(result.value, last);
    }
    std::vector<PlannedBlock> blocks;
    std::vector<std::uint32_t> owners;
    for (const auto& call : p_.fixed_calls) {
      if (call.node->op->allocates()) continue;
      for (std::uint32_t o = 0; o < call.node->output_count; ++o) {
        const Tensor& spec = p_.spec_of(call.node->first_output + o);
        blocks.push_back({bytes_of(spec), 0, p_.calls.size()});
        owners.push_back(call.node->first_output + o);
      }
    }
    for (std::size_t c = 0; c < p_.calls.size(); ++c) {
      const Node& node = *p_.calls[c].node;
      for (std::uint32_t o = 0; o < node.output_count; ++o) {
        const std::uint32_t value = node.first_output + o;
        const Tensor& spec = p_.spec_of(value);
        if (node.op->allocates()) {
          free_behind(value, std::max(last[value], c), leaves_program[value]);
        } else if (!placed[value]) {
          blocks.push_back({bytes_of(spec), c, std::max(last[value], c)});
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
    for (auto& call : p_.fixed_calls) {
      bind(call);
      const Node& node = *call.node;
      const auto has_data = [&](std::uint32_t i) { return has(i); };
      if (std::all_of(node.inputs, node.inputs + node.input_count, has_data)) p_.run(call);
    }
    for (auto& call : p_.calls) bind(call);
    if (p_.options.keep_weights) p_.refresh_kernels(p_.calls, &Kernel::settle);
    for (const auto& source : p_.parameter_sources) p_.slots[source.value] = {};
  }

  bool has(std::uint32_t value) {
    return p_.slots[value].defined() && !p_.slots[value].is_abstract();
  }

  void bind(Program::Impl::Call& call) {
    const Node& node = *call.node;
    if (node.op->allocates()) return;
    std::vector<const Tensor*> in;
    const std::unique_ptr<bool[]> fixed(new bool[node.input_count]);
    for (std::uint32_t i = 0; i < node.input_count; ++i) {
      const std::uint32_t value = node.inputs[i];
      fixed[i] = fixed_[value] && has(value);
      in.push_back(fixed[i] ? &p_.slots[value] : &p_.spec_of(value));
    }
    call.kernel = node.op->bind(Args(in), {fixed.get(), node.input_count}, p_.arena);
  }

  std::unique_ptr<Program::Impl> impl_ = std::make_unique<Program::Impl>();
  Program::Impl& p_ = *impl_;
  Where where_;
  std::vector<Tensor> leaves_, gradients_;
  std::size_t forward_nodes_ = 0;
  std::vector<bool> fixed_;  // by value: weights and constants decide it
};

namespace {

Program build(const TraceFunction& f, std::span<const Tensor> examples,
              const ProgramOptions& options, const Where& where, bool gradient) {
  if (!f) fail("trace", "the function is empty", where, "Give a lambda or another callable");
  try {
    return ProgramBuilder(options, where).build(f, examples, gradient);
  } catch (const MemoryError& error) {
    std::string shapes;
    for (const Tensor& one : examples) shapes += (shapes.empty() ? "" : ", ") + to_string(one);
    throw MemoryError(error, "trace", shapes, where);
  }
}

}  // namespace

Program trace(const TraceFunction& f, std::span<const Tensor> examples,
              const ProgramOptions& options, Where where) {
  return build(f, examples, options, where, false);
}

Program trace_gradient(const TraceFunction& f, std::span<const Tensor> examples,
                       const ProgramOptions& options, Where where) {
  return build(f, examples, options, where, true);
}

}  // namespace unroll
