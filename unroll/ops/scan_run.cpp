#include <unroll/graph/accumulate.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/scan_plan.h>

#include <algorithm>
#include <cstring>

namespace unroll::detail {
namespace {

void copy_into(Tensor target, const Tensor& source) {
  std::memcpy(target.bytes(), source.bytes(),
              static_cast<std::size_t>(source.numel() * size_of(source.dtype())));
}

// [T, B, ...] as the rows [T * B, ...] of all steps.
Tensor folded(const Tensor& stack) {
  Shape shape = stack.shape().without(0);
  shape[0] *= stack.size(0);
  return stack.viewed(shape);
}

Tensor unfolded(const Tensor& rows, std::int64_t steps) {
  Shape shape = rows.shape();
  shape[0] /= steps;
  return rows.viewed(shape.inserted(0, steps));
}

}  // namespace

/// The working tensors of one run of a plan.
class ScanRun {
 public:
  using Place = ScanPlan::Place;
  static constexpr std::uint32_t none = ScanPlan::none;

  ScanRun(const ScanPlan& plan, Args in)
      : plan_(plan),
        tape_(*plan.tape_),
        in_(in),
        steps_(in[0].size(0)),
        now_(tape_.value_count()),
        stack_(tape_.value_count()) {
    std::size_t next = 0;
    stack_[plan.x_] = in[next++];
    if (plan.masked_) stack_[plan.mask_] = in[next++];
    first_state_ = next;
    next += plan.states();
    for (std::uint32_t value : plan.capture_values_) now_[value] = in[next++];
    after_inputs_ = next;
    for (std::size_t n = 0; n < tape_.size(); ++n) {
      const Node& node = tape_.node(n);
      for (std::uint32_t i = 0; i < node.input_count && plan_.place_[n] == Place::loop; ++i)
        if (node.edges[i] != Node::constant) in_loop_.push_back(node.edges[i]);
    }
    std::sort(in_loop_.begin(), in_loop_.end());
    in_loop_.erase(std::unique(in_loop_.begin(), in_loop_.end()), in_loop_.end());
  }

  void forward(std::span<Tensor> out) {
    run_place(Place::once, 0, plan_.forward_nodes_);
    run_place(Place::before, 0, plan_.forward_nodes_);
    make_tracks();
    const bool own_stack = stack_of_output() < 0 && !stack_[plan_.output_].defined();
    if (own_stack) make_stack(plan_.output_);
    for (std::uint32_t value : plan_.saved_)
      if (!stack_[value].defined()) make_stack(value);
    const std::vector<std::uint32_t> nodes = loop_nodes(0, plan_.forward_nodes_);
    const std::vector<std::uint32_t> stacked = stacked_values();
    for (std::int64_t s = 0; s < steps_; ++s) {
      const std::int64_t t = plan_.reverse_ ? steps_ - 1 - s : s;
      begin_step(stacked, t);
      for (std::size_t k = 0; k < plan_.states(); ++k) {
        now_[plan_.states_in_[k]] = state_in(k, t);
        if (writes_track(k)) now_[plan_.states_out_[k]] = state_out(k, t);
      }
      for (std::uint32_t n : nodes) run_step(n);
      for (std::size_t k = 0; k < plan_.states(); ++k)
        if (!writes_track(k)) copy_into(state_out(k, t), now_[plan_.states_out_[k]]);
      if (own_stack && !in_loop_result(plan_.output_))
        copy_into(stack_[plan_.output_].row(t), now_[plan_.output_]);
    }
    write_results(out);
  }

  void backward(std::span<Tensor> out) {
    std::size_t next = after_inputs_ + 1 + plan_.states();
    for (std::size_t k = 0; k < plan_.states(); ++k) {
      if (!plan_.tracked_[k]) continue;
      const Tensor& track = in_[next++];
      stack_[plan_.states_in_[k]] =
          plan_.reverse_ ? track.rows(1, steps_ + 1) : track.rows(0, steps_);
      if (plan_.place_of(plan_.states_out_[k]) == Place::loop)
        stack_[plan_.states_out_[k]] =
            plan_.reverse_ ? track.rows(0, steps_) : track.rows(1, steps_ + 1);
    }
    for (std::uint32_t value : plan_.saved_) stack_[value] = in_[next++];
    stack_[plan_.output_seed_] = in_[next++];
    const std::size_t state_grads = next;

    const std::size_t first = plan_.forward_nodes_, last = tape_.size();
    run_place(Place::once, 0, last);
    run_place(Place::before, first, last);
    make_back_stacks();
    const std::vector<std::uint32_t> nodes = loop_nodes(first, last);
    const std::vector<std::uint32_t> stacked = stacked_values();
    const std::vector<std::size_t> summed_in_loop = captures_summed_in_loop();
    std::vector<Tensor> sums(plan_.captures_.size());
    std::vector<Tensor> carried(plan_.states());
    for (std::size_t k = 0; k < plan_.states(); ++k) carried[k] = in_[state_grads + k];

    for (std::int64_t s = steps_; s-- > 0;) {
      const std::int64_t t = plan_.reverse_ ? steps_ - 1 - s : s;
      begin_step(stacked, t);
      for (std::size_t k = 0; k < plan_.states(); ++k) {
        now_[plan_.state_seeds_[k]] = carried[k];
        const Tensor& kept = stack_[plan_.state_seeds_[k]];
        if (kept.defined()) copy_into(kept.row(t), carried[k]);
      }
      for (std::uint32_t n : nodes) run_step(n);
      for (std::size_t c : summed_in_loop) {
        const Tensor& part = now_[plan_.capture_grads_[c]];
        if (sums[c].defined()) {
          accumulate_into(sums[c], part);
        } else {
          sums[c] = part.clone();
        }
      }
      for (std::size_t k = 0; k < plan_.states(); ++k) {
        const std::uint32_t value = plan_.state_grads_[k];
        carried[k] =
            value == none ? Tensor::zeros(carried[k].shape(), carried[k].dtype()) : now_[value];
      }
      // What is carried on must not be overwritten by the next step's result.
      for (std::uint32_t value : plan_.state_grads_)
        if (value != none && in_loop_result(value)) now_[value] = {};
      for (Tensor& grad : carried)
        if (!grad.unique()) grad = grad.clone();
    }
    run_behind(first, last);
    write_gradients(out, carried, sums);
  }

 private:
  const Node& node_of(std::uint32_t value) const { return tape_.node(tape_.producer(value)); }
  const Tensor& spec_of(std::uint32_t value) const {
    const Node& node = node_of(value);
    return node.outputs[value - node.first_value];
  }
  bool in_loop_result(std::uint32_t value) const {
    return node_of(value).op != nullptr && plan_.place_of(value) == Place::loop;
  }

  void make_stack(std::uint32_t value) {
    const Tensor& spec = spec_of(value);
    stack_[value] = Tensor::empty(spec.shape().inserted(0, steps_), spec.dtype());
  }

  // The states before and after each step, in the order of time: one row more than steps.
  void make_tracks() {
    for (std::size_t k = 0; k < plan_.states(); ++k) {
      const Tensor& initial = in_[first_state_ + k];
      whole_.push_back(plan_.tracked_[k] || stack_of_output() == static_cast<int>(k));
      const std::int64_t rows = whole_[k] ? steps_ + 1 : 2;
      tracks_.push_back(Tensor::empty(initial.shape().inserted(0, rows), initial.dtype()));
      copy_into(state_in(k, plan_.reverse_ ? steps_ - 1 : 0), initial);
    }
  }
  Tensor state_in(std::size_t k, std::int64_t t) const {
    const std::int64_t row = plan_.reverse_ ? t + 1 : t;
    return tracks_[k].row(whole_[k] ? row : row % 2);
  }
  Tensor state_out(std::size_t k, std::int64_t t) const {
    const std::int64_t row = plan_.reverse_ ? t : t + 1;
    return tracks_[k].row(whole_[k] ? row : row % 2);
  }
  // A state that is a loop node's result is computed in its place; the first of two equal ones.
  bool writes_track(std::size_t k) const {
    const auto& values = plan_.states_out_;
    return in_loop_result(values[k]) &&
           std::find(values.begin(), values.end(), values[k]) - values.begin() ==
               static_cast<std::ptrdiff_t>(k);
  }
  // The state whose track holds the outputs too, or -1.
  int stack_of_output() const {
    for (std::size_t k = 0; k < plan_.states(); ++k)
      if (plan_.states_out_[k] == plan_.output_ && writes_track(k)) return static_cast<int>(k);
    return -1;
  }

  std::vector<std::uint32_t> loop_nodes(std::size_t begin, std::size_t end) const {
    std::vector<std::uint32_t> nodes;
    for (std::size_t n = begin; n < end; ++n)
      if (plan_.place_[n] == Place::loop) nodes.push_back(static_cast<std::uint32_t>(n));
    return nodes;
  }
  // Values that the loop reads or writes a step's slice of.
  std::vector<std::uint32_t> stacked_values() const {
    std::vector<std::uint32_t> values;
    for (std::uint32_t value = 0; value < stack_.size(); ++value)
      if (stack_[value].defined() &&
          (in_loop_result(value) || std::binary_search(in_loop_.begin(), in_loop_.end(), value) ||
           read_at_end(value)))
        values.push_back(value);
    return values;
  }
  bool read_at_end(std::uint32_t value) const {
    const auto in = [&](const std::vector<std::uint32_t>& values) {
      return std::find(values.begin(), values.end(), value) != values.end();
    };
    return value == plan_.output_ || in(plan_.states_out_) || in(plan_.state_grads_) ||
           in(plan_.capture_grads_);
  }
  void begin_step(const std::vector<std::uint32_t>& stacked, std::int64_t t) {
    for (std::uint32_t value : stacked)
      if (!is_seed(value)) now_[value] = stack_[value].row(t);
  }
  bool is_seed(std::uint32_t value) const {
    return std::find(plan_.state_seeds_.begin(), plan_.state_seeds_.end(), value) !=
           plan_.state_seeds_.end();
  }

  // A loop node at the current step: results go where now_ points, or into memory kept for them.
  void run_step(std::uint32_t n) {
    const Node& node = tape_.node(n);
    inputs_.resize(node.input_count);
    for (std::uint32_t i = 0; i < node.input_count; ++i)
      inputs_[i] = node.edges[i] == Node::constant ? &node.inputs[i] : &now_[node.edges[i]];
    Tensor* results = &now_[node.first_value];
    if (!node.op->allocates()) {
      for (std::uint32_t o = 0; o < node.output_count; ++o)
        if (!results[o].defined())
          results[o] = Tensor::empty(node.outputs[o].shape(), node.outputs[o].dtype());
      node.op->forward(Args(inputs_), {results, node.output_count});
      return;
    }
    const std::vector<Tensor> targets(results, results + node.output_count);
    node.op->forward(Args(inputs_), {results, node.output_count});
    for (std::uint32_t o = 0; o < node.output_count; ++o) {
      if (!stack_[node.first_value + o].defined() && !is_track(node.first_value + o)) continue;
      copy_into(targets[o], results[o]);
      results[o] = targets[o];
    }
  }
  bool is_track(std::uint32_t value) const {
    const auto& values = plan_.states_out_;
    return !tracks_.empty() && std::find(values.begin(), values.end(), value) != values.end();
  }

  // A node over all steps' rows, or once where none of its inputs is stacked.
  void run_together(std::size_t n, bool summed) {
    const Node& node = tape_.node(n);
    std::vector<Tensor> rows(node.input_count);
    std::vector<const Tensor*> in(node.input_count);
    bool stacked = false;
    for (std::uint32_t i = 0; i < node.input_count; ++i) {
      const std::uint32_t value = node.edges[i];
      if (value != Node::constant && stack_[value].defined()) {
        rows[i] = folded(stack_[value]);
        stacked = true;
      } else {
        rows[i] = value == Node::constant ? node.inputs[i] : now_[value];
      }
      in[i] = &rows[i];
    }
    std::vector<Tensor> results(node.output_count);
    std::vector<Spec> specs(node.output_count);
    if (!node.op->allocates()) {
      node.op->infer(Args(in), specs);
      for (std::uint32_t o = 0; o < node.output_count; ++o)
        results[o] = Tensor::empty(specs[o].shape, specs[o].dtype);
    }
    node.op->forward(Args(in), results);
    for (std::uint32_t o = 0; o < node.output_count; ++o) {
      const std::uint32_t value = node.first_value + o;
      if (stacked && !summed) {
        stack_[value] = unfolded(results[o], steps_);
      } else {
        now_[value] = results[o];
      }
    }
  }
  void run_place(Place place, std::size_t begin, std::size_t end) {
    for (std::size_t n = begin; n < end; ++n)
      if (plan_.place_[n] == place) run_together(n, false);
  }
  void run_behind(std::size_t begin, std::size_t end) {
    for (std::size_t n = begin; n < end; ++n) {
      if (plan_.place_[n] == Place::after) run_together(n, false);
      if (plan_.place_[n] == Place::summed) run_together(n, true);
    }
  }

  void write_results(std::span<Tensor> out) {
    std::size_t next = 0;
    const int track = stack_of_output();
    out[next++] = track < 0        ? stack_[plan_.output_]
                  : plan_.reverse_ ? tracks_[track].rows(0, steps_)
                                   : tracks_[track].rows(1, steps_ + 1);
    // Copies: a state that is carried on should not keep a whole sequence alive.
    for (std::size_t k = 0; k < plan_.states(); ++k)
      out[next++] = state_out(k, plan_.reverse_ ? 0 : steps_ - 1).clone();
    for (std::size_t k = 0; k < plan_.states(); ++k)
      if (plan_.tracked_[k]) out[next++] = tracks_[k];
    for (std::uint32_t value : plan_.saved_) out[next++] = stack_[value];
  }

  // Stacks for what the loop computes and the nodes behind it read.
  void make_back_stacks() {
    const auto keep = [&](std::uint32_t value) {
      if (value != none && !stack_[value].defined() && (in_loop_result(value) || is_seed(value)))
        make_stack(value);
    };
    for (std::size_t n = plan_.forward_nodes_; n < tape_.size(); ++n) {
      if (plan_.place_[n] != Place::after && plan_.place_[n] != Place::summed) continue;
      const Node& node = tape_.node(n);
      for (std::uint32_t i = 0; i < node.input_count; ++i)
        if (node.edges[i] != Node::constant) keep(node.edges[i]);
    }
    keep(plan_.x_grad_);
    for (std::uint32_t value : plan_.capture_grads_)
      if (value != none && is_seed(value)) keep(value);
  }
  // Gradients of captures that come step by step and are added up in the loop.
  std::vector<std::size_t> captures_summed_in_loop() const {
    std::vector<std::size_t> result;
    for (std::size_t c = 0; c < plan_.capture_grads_.size(); ++c) {
      const std::uint32_t value = plan_.capture_grads_[c];
      if (value != none && in_loop_result(value) && !stack_[value].defined()) result.push_back(c);
    }
    return result;
  }

  void write_gradients(std::span<Tensor> out, std::span<const Tensor> carried,
                       std::span<const Tensor> sums) {
    std::size_t next = 0;
    const std::uint32_t x_grad = plan_.x_grad_;
    if (x_grad != none)
      out[next] = stack_[x_grad].defined()
                      ? stack_[x_grad]
                      : expand(now_[x_grad], in_[0].shape());  // the same at every step
    ++next;
    for (const Tensor& grad : carried) out[next++] = grad;
    for (std::size_t c = 0; c < plan_.captures_.size(); ++c, ++next) {
      const std::uint32_t value = plan_.capture_grads_[c];
      if (value == none) continue;
      if (sums[c].defined()) {
        out[next] = sums[c];
      } else if (stack_[value].defined()) {
        out[next] = sum(stack_[value], {0});
      } else if (plan_.place_of(value) == Place::once) {
        out[next] = now_[value] * static_cast<double>(steps_);
      } else {
        out[next] = now_[value];
      }
    }
  }

  const ScanPlan& plan_;
  const Tape& tape_;
  Args in_;
  std::int64_t steps_;
  std::vector<Tensor> now_;    // by value: the current step's, or the same for all
  std::vector<Tensor> stack_;  // by value: all steps' [T, ...]
  std::vector<Tensor> tracks_;
  std::vector<bool> whole_;
  std::vector<std::uint32_t> in_loop_;
  std::vector<const Tensor*> inputs_;
  std::size_t first_state_ = 0, after_inputs_ = 0;
};

int ScanPlan::result_count() const {
  return static_cast<int>(1 + states() + std::count(tracked_.begin(), tracked_.end(), true) +
                          saved_.size());
}

void ScanPlan::infer(Args in, std::span<Spec> out) const {
  const std::int64_t steps = in[0].size(0);
  const auto spec = [&](std::uint32_t value, std::int64_t rows) {
    const Node& node = producer(value);
    const Tensor& one = node.outputs[value - node.first_value];
    return Spec{rows > 0 ? one.shape().inserted(0, rows) : one.shape(), one.dtype()};
  };
  std::size_t next = 0;
  out[next++] = spec(output_, steps);
  for (std::uint32_t value : states_in_) out[next++] = spec(value, 0);
  for (std::size_t k = 0; k < states(); ++k)
    if (tracked_[k]) out[next++] = spec(states_in_[k], steps + 1);
  for (std::uint32_t value : saved_) out[next++] = spec(value, steps);
}

void ScanPlan::run(Args in, std::span<Tensor> out) const { ScanRun(*this, in).forward(out); }

void ScanPlan::run_back(Args in, std::span<Tensor> out) const { ScanRun(*this, in).backward(out); }

}  // namespace unroll::detail
