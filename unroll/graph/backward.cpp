#include <fmt/format.h>
#include <unroll/graph/accumulate.h>
#include <unroll/graph/current_tape.h>
#include <unroll/graph/dry_run.h>
#include <unroll/graph/gradients.h>
#include <unroll/graph/threads.h>

#include <algorithm>
#include <type_traits>

namespace unroll {
namespace {

using detail::CurrentTape, detail::all_finite, detail::shapes_of;

// What a vjp gave for input i. `with_data`: it should have some.
[[gnu::noinline]] void check_gradient(const Node& node, const Tensor& part, const Tensor& input,
                                      std::size_t i, bool with_data) {
  if (part.shape() != input.shape())
    fail(node.op->name(),
         fmt::format("its vjp gives input {} a gradient {} for a value {}", i, to_string(part),
                     to_string(input)),
         node.where);
  if (with_data && part.is_abstract() && !detail::dry)
    fail(node.op->name(), "its vjp reads an input or output that keep() does not name");
  if (!all_finite(part))
    fail(node.op->name(),
         fmt::format("the gradient {} of input {} is not finite", to_string(part), i), node.where);
}

// Out of line, as all that a walk seldom meets: step_back() is short where ops are.
[[noreturn, gnu::noinline]] void rethrow_from_walk(const MemoryError& error, const Node& node,
                                                   Args inputs) {
  throw MemoryError(error, fmt::format("{}, backward", node.op->name()), shapes_of(inputs),
                    node.where);
}

[[noreturn, gnu::cold]] void fail_consumed(const Node& node) {
  fail("tape", fmt::format("'{}' was walked back through already", node.op->name()), node.where,
       "Pass {.retain = true} to the first backward()");
}

}  // namespace

std::uint32_t Tape::value_of(const Tensor& tensor, const char* what) const {
  if (owns(tensor)) return tensor.ref().value();
  const bool other = tensor.ref().tape() != 0;
  fail("tape",
       fmt::format("{} {} was {} this tape", what, to_string(tensor),
                   other ? "recorded on another tape than" : "not recorded on"),
       other ? "A tape ends with its scope; compute the value while this tape lives"
             : "It depends on no parameter and no watched value, or was computed without a tape");
}

// What a walk back knows: gradients, and room for what one vjp gets and gives.
struct Tape::Walk {
  Gradients grads;
  CachedVector<Tensor*> results, given;  // places of gradients
  std::size_t room = 0;

  // Where memory ends the error names the walk.
  Walk(std::size_t values, std::span<const Tensor> outputs) try : grads(values) {
    make_room(8);
  } catch (const MemoryError& error) {
    std::string shapes;
    for (const Tensor& one : outputs) shapes += (shapes.empty() ? "" : ", ") + to_string(one);
    throw MemoryError(error, "backward", shapes, Where());
  }
  [[gnu::noinline]] void make_room(std::size_t count) {
    given.resize(count);
    results.resize(count);
    for (; room < count; ++room) results[room] = grads.free_place();
  }
};

// Checks what a vjp gave and adds it to the gradients of the node's inputs.
inline void Tape::take_gradients(const Node& node, const Vjp& v, Walk& walk) {
  for (std::size_t i = 0; i < v.inputs.size(); ++i) {
    Tensor& part = v.result[i];
    if (!part.defined()) continue;
    if (!v.needed[i]) {
      part.reset();
      continue;
    }
    if (part.shape() != v.inputs[i].shape() || part.is_abstract() || options_.check_numbers)
        [[unlikely]]
      check_gradient(node, part, v.inputs[i], i, !options_.trace);
    if (walk.grads.put(node.inputs[i], walk.results[i])) continue;
    accumulate_into(walk.grads.at(node.inputs[i]), part);
    part.reset();
  }
}

// The gradients of a node's outputs become those of its inputs.
void Tape::step_back(Node& node, Walk& walk, bool last) {
  if (node.op == nullptr) return;
  const auto step = [&](auto in, auto out) {
    if (in > walk.room || out > walk.room) [[unlikely]]
      walk.make_room(std::max<std::size_t>(in, out));
    Tensor** const given = walk.given.data();
    bool reached = false;
    for (std::size_t i = 0; i < out; ++i) {
      given[i] = &walk.grads.at(node.first_output + i);
      reached |= given[i]->defined();
    }
    if (reached) {
      if (node.consumed) [[unlikely]]
        fail_consumed(node);
      Vjp v{.inputs = Args({node.tensors, in}),
            .outputs = Args({node.tensors + in, out}),
            .grads = Args({given, out}),
            .own_grads = {given, out},
            .needed = {node.needed(), in},
            .result = Results({walk.results.data(), in}),
            .last = last};
      node.op->vjp(v);
      take_gradients(node, v, walk);
    }
    for (std::size_t i = 0; i < out; ++i) walk.grads.drop(node.first_output + i, given[i]);
  };
  try {
    // Of an op with one operand and one result, as most small ones are, no loops are left.
    if (node.input_count == 1 && node.output_count == 1) {
      constexpr std::integral_constant<std::size_t, 1> one;
      step(one, one);
    } else {
      step(std::size_t{node.input_count}, std::size_t{node.output_count});
    }
  } catch (const MemoryError& error) {
    node.consumed = last;  // it may have overwritten what was kept
    rethrow_from_walk(error, node, Args({node.tensors, node.input_count}));
  } catch (...) {
    node.consumed = last;
    throw;
  }
}

// Frees what was kept for a node's vjp. All that read its outputs has been walked by now.
void Tape::release(Node& node) {
  if (node.op == nullptr) return;
  node.consumed = true;
  for (std::size_t i = 0; i < node.input_count; ++i)
    if (Value& value = values_[node.inputs[i]]; value.producer == Value::constant)
      value.tensor.drop_data();
  for (std::size_t i = 0; i < node.output_count; ++i)
    values_[node.first_output + i].tensor.drop_data();
}

void Tape::backward(const Tensor& loss, const BackwardOptions& options) {
  const std::uint32_t value = value_of(loss, "the loss");
  if (loss.numel() != 1)
    fail("tape", fmt::format("the loss must have one element, got {}", to_string(loss)),
         "Reduce it with sum() or mean()");
  const CurrentTape unrecorded(nullptr);
  const MemoryScope scope(MemoryKind::gradient);
  Walk walk(values_up_to(value), {&loss, 1});
  Gradients& grads = walk.grads;
  grads.at(value) = Tensor::full(loss.shape(), 1.0, loss.dtype());
  const detail::FlushDenormals flush;
  // Where nothing was recorded behind the loss, nobody needs the parameters' values any longer: an
  // optimizer can change them in place, without a copy.
  const bool last = values_[value].producer + 1 == nodes_.size();
  for (std::size_t n = values_[value].producer + 1; n-- > options.down_to.nodes;) {
    step_back(nodes_[n], walk, !options.retain);
    if (options.retain) continue;
    release(nodes_[n]);
    if (last && nodes_[n].parameter != nullptr) values_[nodes_[n].first_output].tensor.drop_data();
  }
  // All that can fail comes first.
  for (std::uint32_t leaf : leaves_) {
    const Node& node = nodes_[leaf];
    if (node.first_output > value || !grads[node.first_output].defined()) continue;
    if (detail::dry) DryRun::set_aside(*node.parameter);
    Tensor& grad = (*node.parameter)->grad;
    const Tensor& part = grads[node.first_output];
    if (!grad.defined()) continue;
    if (grad.shape() != part.shape() || grad.dtype() != part.dtype()) accumulate(grad, part);
    if (!grad.unique()) grad = grad.clone();
  }
  for (std::uint32_t leaf : leaves_) {
    const Node& node = nodes_[leaf];
    if (node.first_output > value || !grads[node.first_output].defined()) continue;
    Tensor& grad = (*node.parameter)->grad;
    if (grad.defined()) {
      accumulate_into(grad, grads[node.first_output]);
    } else {
      grad = std::move(grads.at(node.first_output));
    }
  }
}

std::vector<Tensor> Tape::gradient(std::span<const Tensor> outputs, std::span<const Tensor> wrt,
                                   const GradientOptions& options) {
  if (!options.seeds.empty() && options.seeds.size() != outputs.size())
    fail("gradient", fmt::format("{} seeds for {} outputs", options.seeds.size(), outputs.size()));
  std::uint32_t last = 0;
  for (const Tensor& tensor : outputs) last = std::max(last, value_of(tensor, "the output"));
  for (const Tensor& tensor : wrt)
    last = std::max(last, value_of(tensor, "the value to differentiate by"));
  const CurrentTape recorded(options.create_graph ? this : nullptr);
  const MemoryScope scope(MemoryKind::gradient);
  const detail::FlushDenormals flush;
  Walk walk(values_up_to(last), outputs);
  Gradients& grads = walk.grads;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Tensor seed = options.seeds.empty()
                            ? Tensor::full(outputs[i].shape(), 1.0, outputs[i].dtype())
                            : options.seeds[i];
    Tensor& grad = grads.at(outputs[i].ref().value());
    if (grad.defined()) {
      accumulate_into(grad, seed);
    } else {
      grad = seed;
    }
  }
  // A value's gradient is complete when the walk arrives at its producer, and freed behind it:
  // taken there.
  std::vector<Tensor> result(wrt.size());
  std::size_t above = values_[last].producer + 1;
  std::vector<std::size_t> order(wrt.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return wrt[a].ref().value() > wrt[b].ref().value();
  });
  for (std::size_t i : order) {
    const std::uint32_t value = wrt[i].ref().value();
    const std::size_t down_to = values_[value].producer + std::size_t{1};
    while (above > down_to) step_back(nodes_[--above], walk, false);
    result[i] = grads[value];
    if (!result[i].defined() && options.zeros)
      result[i] = Tensor::zeros(wrt[i].shape(), wrt[i].dtype());
  }
  return result;
}

}  // namespace unroll
