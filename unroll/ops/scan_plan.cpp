#include <fmt/format.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/scan_plan.h>

#include <algorithm>

namespace unroll::detail {
namespace {

// The mask [B, 1] in the rank of a value.
Tensor mask_like(const Tensor& mask, const Tensor& value) {
  Shape shape = mask.shape();
  while (shape.rank() < value.rank()) shape = shape.inserted(shape.rank(), 1);
  return shape == mask.shape() ? mask : reshape(mask, shape);
}

}  // namespace

void fail_second_gradient() {
  fail("scan", "its gradient has no gradient of its own",
       "Scan with {.unrolled = true}: the loop on the tape is differentiated again where the ops "
       "of its cell are");
}

void check_state(const State& before, const State& after, const Where& where) {
  if (after.size() != before.size())
    fail("scan",
         fmt::format("the cell takes {} state tensors and returns {}", before.size(), after.size()),
         where);
  for (std::size_t k = 0; k < before.size(); ++k)
    if (after[k].shape() != before[k].shape() || after[k].dtype() != before[k].dtype())
      fail("scan",
           fmt::format("state {} goes in as {} and comes out as {}", k, to_string(before[k]),
                       to_string(after[k])),
           where, "The initial state must have the shape that the cell returns");
}

ScanPlan::ScanPlan(const Cell& cell, const Spec& input, const State& state, const Options& options,
                   const Where& where)
    : masked_(options.masked), reverse_(options.reverse) {
  Tape* outer = Tape::current();
  tape_ = std::make_unique<Tape>(Tape::Options{.trace = true});
  const Tensor x = tape_->watch(Tensor::abstract(input.shape, input.dtype));
  x_ = x.ref().value();
  Tensor mask;
  if (masked_) {
    mask = tape_->input(Tensor::abstract({input.shape[0], 1}, input.dtype), false);
    mask_ = mask.ref().value();
  }
  State before;
  for (const Tensor& one : state) {
    before.push_back(tape_->watch(Tensor::abstract(one.shape(), one.dtype())));
    states_in_.push_back(before.back().ref().value());
  }
  Output step = cell(x, before);
  check_state(state, step.state, where);
  if (masked_) {
    const Tensor zero = Tensor::zeros({}, step.output.dtype());
    step.output = unroll::where(mask_like(mask, step.output), step.output, zero);
    for (std::size_t k = 0; k < state.size(); ++k)
      step.state[k] = unroll::where(mask_like(mask, before[k]), step.state[k], before[k]);
  }
  const auto value_of = [&](const Tensor& tensor, const char* what) {
    if (!tape_->owns(tensor))
      fail("scan",
           fmt::format("the cell's {} {} does not depend on its input or state", what,
                       to_string(tensor)),
           where);
    return tensor.ref().value();
  };
  output_ = value_of(step.output, "output");
  for (const Tensor& one : step.state) states_out_.push_back(value_of(one, "state"));

  forward_nodes_ = tape_->size();
  for (std::size_t n = 0; n < forward_nodes_; ++n) {
    const Node& node = tape_->node(n);
    if (node.op != nullptr) random_ = random_ || node.op->random();
    if (node.parameter == nullptr && node.foreign == nullptr) continue;
    capture_values_.push_back(node.first_output);
    if (node.foreign != nullptr) {
      captures_.push_back(*node.foreign);
    } else {
      captures_.push_back(outer != nullptr ? outer->leaf(*node.parameter)
                                           : (*node.parameter)->value);
    }
  }
  const auto wanted = [&](const Tensor& tensor) {
    return outer != nullptr && outer->needs_grad(tensor);
  };
  const bool differentiate = options.needs_x || std::any_of(state.begin(), state.end(), wanted) ||
                             std::any_of(captures_.begin(), captures_.end(), wanted);
  if (differentiate && !random_) trace_back(*outer, options.needs_x);
  tape_->stop();
  place_.assign(tape_->size(), Place::unused);
  tracked_.assign(states(), false);
  place_forward();
  if (output_seed_ != none) {
    place_backward();
    choose_saved();
  }
}

void ScanPlan::trace_back(const Tape& outer, bool needs_x) {
  std::vector<Tensor> outputs, seeds, wrt;
  const auto seed = [&](std::uint32_t value) {
    const Tensor& of = tensor_of(value);
    outputs.push_back(of);
    seeds.push_back(tape_->input(Tensor::abstract(of.shape(), of.dtype()), false));
    return seeds.back().ref().value();
  };
  output_seed_ = seed(output_);
  for (std::uint32_t value : states_out_) state_seeds_.push_back(seed(value));
  wrt.push_back(tensor_of(x_));
  for (std::uint32_t value : states_in_) wrt.push_back(tensor_of(value));
  std::vector<std::size_t> wanted;
  for (std::size_t c = 0; c < captures_.size(); ++c) {
    if (!outer.needs_grad(captures_[c])) continue;
    wanted.push_back(c);
    wrt.push_back(tensor_of(capture_values_[c]));
  }
  const std::vector<Tensor> grads =
      tape_->gradient(outputs, wrt, {.create_graph = true, .seeds = seeds, .zeros = false});
  const auto value_of = [&](const Tensor& grad) {
    return grad.defined() && tape_->owns(grad) ? grad.ref().value() : none;
  };
  x_grad_ = needs_x ? value_of(grads[0]) : none;
  for (std::size_t k = 0; k < states(); ++k) state_grads_.push_back(value_of(grads[1 + k]));
  capture_grads_.assign(captures_.size(), none);
  for (std::size_t i = 0; i < wanted.size(); ++i)
    capture_grads_[wanted[i]] = value_of(grads[1 + states() + i]);
}

// Which values depend on any of these?
std::vector<bool> ScanPlan::reached_from(std::span<const std::uint32_t> values) const {
  std::vector<bool> reached(tape_->value_count(), false);
  for (std::uint32_t value : values)
    if (value != none) reached[value] = true;
  for (std::size_t n = 0; n < tape_->size(); ++n) {
    const Node& node = tape_->node(n);
    for (std::uint32_t i = 0; i < node.input_count; ++i)
      if (!is_constant(node.inputs[i]) && reached[node.inputs[i]])
        for (std::uint32_t o = 0; o < node.output_count; ++o) reached[node.first_output + o] = true;
  }
  return reached;
}

// Marks the nodes that a value is computed from.
void ScanPlan::mark_ancestors(std::uint32_t value, std::vector<bool>& marked) const {
  if (value == none || marked[producer(value)]) return;
  marked[producer(value)] = true;
  for (std::size_t n = producer(value) + 1; n-- > 0;) {
    if (!marked[n]) continue;
    const Node& node = tape_->node(n);
    for (std::uint32_t i = 0; i < node.input_count; ++i)
      if (!is_constant(node.inputs[i])) marked[producer(node.inputs[i])] = true;
  }
}

Rows ScanPlan::rows_of(const Node& node, const std::vector<bool>& stacked) const {
  std::vector<const Tensor*> in(node.input_count);
  const std::unique_ptr<bool[]> flags(new bool[node.input_count]);
  for (std::uint32_t i = 0; i < node.input_count; ++i) {
    in[i] = &tensor_of(node.inputs[i]);
    flags[i] = stacked[i];
    if (stacked[i] && in[i]->rank() == 0) return Rows::none;
  }
  return node.op->rows(Args(in), {flags.get(), node.input_count});
}

void ScanPlan::place_forward() {
  std::vector<bool> used(tape_->size(), false);
  mark_ancestors(output_, used);
  for (std::uint32_t value : states_out_) mark_ancestors(value, used);
  // What only the walk back reads is run there, or saved here: place_backward() knows.
  for (std::size_t n = forward_nodes_; n < tape_->size(); ++n)
    for (std::uint32_t i = 0; i < tape_->node(n).input_count; ++i)
      if (!is_constant(tape_->node(n).inputs[i]) &&
          producer(tape_->node(n).inputs[i]) < forward_nodes_)
        mark_ancestors(tape_->node(n).inputs[i], used);

  const std::vector<bool> by_state = reached_from(states_in_);
  const std::uint32_t streams[] = {x_, mask_};
  const std::vector<bool> by_x = reached_from(streams);
  for (std::size_t n = 0; n < forward_nodes_; ++n) {
    const Node& node = tape_->node(n);
    if (node.op == nullptr || !used[n]) continue;
    if (by_state[node.first_output]) {
      place_[n] = Place::loop;
      continue;
    }
    if (!by_x[node.first_output]) {
      place_[n] = Place::once;
      continue;
    }
    std::vector<bool> stacked(node.input_count, false);
    bool available = true;
    for (std::uint32_t i = 0; i < node.input_count; ++i) {
      const std::uint32_t value = node.inputs[i];
      if (is_constant(value) || !by_x[value]) continue;
      stacked[i] = true;
      available = available && (value == x_ || value == mask_ || place_of(value) == Place::before);
    }
    place_[n] = available && rows_of(node, stacked) == Rows::map ? Place::before : Place::loop;
  }
}

void ScanPlan::place_backward() {
  std::vector<bool> forced(tape_->size(), false);
  while (!try_place_backward(forced)) {
  }
}

// Places what the gradients need. False where a node that was to run behind the loop turns out to
// be needed step by step: it is added to `forced`, and all is placed again.
bool ScanPlan::try_place_backward(std::vector<bool>& forced) {
  std::vector<bool> used(tape_->size(), false), carried(tape_->size(), false);
  for (std::uint32_t value : state_grads_) mark_ancestors(value, carried);
  used = carried;
  mark_ancestors(x_grad_, used);
  for (std::uint32_t value : capture_grads_) mark_ancestors(value, used);

  std::vector<std::uint32_t> sources = states_in_;
  sources.insert(sources.end(), state_seeds_.begin(), state_seeds_.end());
  for (std::uint32_t value : {x_, mask_, output_seed_}) sources.push_back(value);
  const std::vector<bool> varies = reached_from(sources);
  const std::vector<bool> by_seed = reached_from(state_seeds_);

  for (std::size_t n = forward_nodes_; n < tape_->size(); ++n) {
    const Node& node = tape_->node(n);
    place_[n] = Place::unused;
    if (node.op == nullptr || !used[n]) continue;
    if (!varies[node.first_output]) {
      place_[n] = Place::once;
      continue;
    }
    std::vector<bool> stacked(node.input_count, false);
    bool any_sum = false, all_sums = true, in_loop_only = false, any_after = false;
    for (std::uint32_t i = 0; i < node.input_count; ++i) {
      const std::uint32_t value = node.inputs[i];
      if (is_constant(value) || !varies[value]) {
        all_sums = false;
        continue;
      }
      const std::size_t from = producer(value);
      stacked[i] = true;
      const bool leaf = node.op != nullptr && tape_->node(from).op == nullptr;
      const bool sum = !leaf && from >= forward_nodes_ && place_[from] == Place::summed;
      any_sum = any_sum || sum;
      all_sums = all_sums && sum;
      any_after = any_after || (from >= forward_nodes_ && place_[from] == Place::after);
      // Ahead of the loop there are no seeds and no results of the loop.
      in_loop_only = in_loop_only || by_seed[value] ||
                     (from >= forward_nodes_ && !leaf && place_[from] == Place::loop);
    }
    const bool together = !forced[n];
    const Rows rows = together && !any_sum ? rows_of(node, stacked) : Rows::none;
    if (carried[n]) {
      place_[n] = !in_loop_only && rows == Rows::map ? Place::before : Place::loop;
    } else if (any_sum) {
      if (all_sums && node.op->linear()) {
        place_[n] = Place::summed;
        continue;
      }
      // A sum over the steps is no step's value: its producers go back into the loop.
      for (std::uint32_t i = 0; i < node.input_count; ++i)
        if (stacked[i]) mark_ancestors(node.inputs[i], forced);
      forced[n] = true;
      return false;
    } else if (rows == Rows::map) {
      place_[n] = Place::after;
    } else if (rows == Rows::sum) {
      place_[n] = Place::summed;
    } else if (any_after) {
      for (std::uint32_t i = 0; i < node.input_count; ++i)
        if (stacked[i]) mark_ancestors(node.inputs[i], forced);
      forced[n] = true;
      return false;
    } else {
      place_[n] = Place::loop;
    }
  }
  // An input's gradient is wanted step by step.
  if (x_grad_ != none && place_of(x_grad_) == Place::summed) {
    mark_ancestors(x_grad_, forced);
    return false;
  }
  return true;
}

void ScanPlan::choose_saved() {
  std::vector<bool> read(tape_->value_count(), false);
  for (std::size_t n = forward_nodes_; n < tape_->size(); ++n) {
    const Node& node = tape_->node(n);
    if (place_[n] == Place::unused) continue;
    for (std::uint32_t i = 0; i < node.input_count; ++i)
      if (!is_constant(node.inputs[i])) read[node.inputs[i]] = true;
  }
  for (std::uint32_t value : capture_grads_)
    if (value != none) read[value] = true;
  if (x_grad_ != none) read[x_grad_] = true;
  for (std::uint32_t value : state_grads_)
    if (value != none) read[value] = true;
  for (std::size_t k = 0; k < states(); ++k)
    tracked_[k] = read[states_in_[k]] || read[states_out_[k]];
  for (std::size_t n = 0; n < forward_nodes_; ++n) {
    if (place_[n] != Place::before && place_[n] != Place::loop) continue;
    const Node& node = tape_->node(n);
    for (std::uint32_t o = 0; o < node.output_count; ++o) {
      const std::uint32_t value = node.first_output + o;
      const bool is_state =
          std::find(states_out_.begin(), states_out_.end(), value) != states_out_.end();
      if (read[value] && !is_state) saved_.push_back(value);
    }
  }
}

double ScanPlan::capture_elements() const {
  double elements = 0;
  for (std::uint32_t value : capture_values_)
    elements += static_cast<double>(tensor_of(value).numel());
  return elements;
}

std::size_t ScanPlan::kept() const {
  return static_cast<std::size_t>(std::count(tracked_.begin(), tracked_.end(), true)) +
         saved_.size();
}

void ScanPlan::infer_kept(std::int64_t steps, std::span<Spec> out) const {
  std::size_t next = 0;
  const auto add = [&](std::uint32_t value, std::int64_t rows) {
    const Tensor& one = tensor_of(value);
    out[next++] = {one.shape().inserted(0, rows), one.dtype()};
  };
  for (std::size_t k = 0; k < states(); ++k)
    if (tracked_[k]) add(states_in_[k], steps + 1);
  for (std::uint32_t value : saved_) add(value, steps);
}

}  // namespace unroll::detail
