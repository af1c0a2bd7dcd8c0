#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/scan_loop.h>
#include <unroll/ops/scan_plan.h>

#include <algorithm>
#include <cstring>
#include <deque>

namespace unroll::detail {
namespace {

std::size_t byte_count(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel() * size_of(tensor.dtype()));
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

/// The working tensors of one run of a plan, forward or back.
class ScanRun {
 public:
  using Place = ScanPlan::Place;
  static constexpr std::uint32_t none = ScanPlan::none;

  ScanRun(const ScanPlan& plan, Args in, bool ascending)
      : plan_(plan),
        tape_(*plan.tape_),
        in_(in),
        steps_(in[0].size(0)),
        ascending_(ascending),
        now_(tape_.value_count()),
        stack_(tape_.value_count()) {
    std::size_t next = 0;
    stack_[plan.x_] = in[next++];
    if (plan.masked_) stack_[plan.mask_] = in[next++];
    first_state_ = next;
    next += plan.states();
    for (std::uint32_t value : plan.capture_values_) now_[value] = in[next++];
    after_inputs_ = next;
    for (std::uint32_t value = 0; value < now_.size(); ++value)
      if (plan_.is_constant(value)) now_[value] = plan_.tensor_of(value);
  }

  void forward(std::span<Tensor> out) {
    run_place(Place::once, 0, plan_.forward_nodes_);
    run_place(Place::before, 0, plan_.forward_nodes_);
    for (std::size_t k = 0; k < plan_.states(); ++k) {
      const std::uint32_t value = plan_.states_out_[k];
      const bool holds_output = value == plan_.output_ && in_loop_result(value) && is_first(k);
      if (holds_output && output_track_ < 0) output_track_ = static_cast<int>(k);
      carry(plan_.states_in_[k], value, in_[first_state_ + k], plan_.tracked_[k] || holds_output);
    }
    for (std::uint32_t value : plan_.saved_)
      if (!stack_[value].defined()) make_stack(value);
    if (output_track_ < 0 && !stack_[plan_.output_].defined()) {
      make_stack(plan_.output_);
      if (!in_loop_result(plan_.output_)) copied_output_ = true;
    }
    run_loop(0, plan_.forward_nodes_, {});
    write_results(out);
  }

  void backward(std::span<Tensor> out) {
    std::size_t next = after_inputs_ + 1 + plan_.states();
    for (std::size_t k = 0; k < plan_.states(); ++k) {
      if (!plan_.tracked_[k]) continue;
      const Tensor& track = in_[next++];
      stack_[plan_.states_in_[k]] =
          plan_.reverse_ ? track.rows(1, steps_ + 1) : track.rows(0, steps_);
      // A next state that depends on the input alone has been computed ahead of the loop.
      const Place place = plan_.place_of(plan_.states_out_[k]);
      if (place == Place::loop || place == Place::before)
        stack_[plan_.states_out_[k]] =
            plan_.reverse_ ? track.rows(0, steps_) : track.rows(1, steps_ + 1);
    }
    for (std::uint32_t value : plan_.saved_) stack_[value] = in_[next++];
    stack_[plan_.output_seed_] = in_[next++];

    const std::size_t first = plan_.forward_nodes_, last = tape_.size();
    run_place(Place::once, 0, last);
    run_place(Place::before, first, last);
    const std::vector<bool> kept = make_back_stacks();
    for (std::size_t k = 0; k < plan_.states(); ++k) {
      const std::uint32_t seed = plan_.state_seeds_[k];
      carry(seed, plan_.state_grads_[k], in_[next + k], kept[seed]);
      if (kept[seed]) stack_[seed] = track_before(tracks_.back());
    }
    std::vector<Tensor> sums(plan_.captures());
    for (std::size_t c : captures_summed_in_loop()) {
      const Tensor& spec = plan_.tensor_of(plan_.capture_grads_[c]);
      sums[c] = Tensor::zeros(spec.shape(), spec.dtype());
    }
    run_loop(first, last, sums);
    run_behind(first, last);
    write_gradients(out, sums);
  }

 private:
  // What is carried from step to step: the value that a step reads and the one that it gives.
  struct Track {
    std::uint32_t in, out;
    bool whole;   // all steps' rows are kept, else two that take turns
    bool direct;  // the step's own result lies in it, else it is copied there
    Tensor rows;
  };

  bool in_loop_result(std::uint32_t value) const {
    return value != none && !plan_.is_constant(value) &&
           tape_.node(plan_.producer(value)).op != nullptr && plan_.place_of(value) == Place::loop;
  }
  // Among states that are one and the same value.
  bool is_first(std::size_t k) const {
    const auto& values = plan_.states_out_;
    return std::find(values.begin(), values.end(), values[k]) - values.begin() ==
           static_cast<std::ptrdiff_t>(k);
  }

  Tensor empty_like(std::uint32_t value) const {
    const Tensor& spec = plan_.tensor_of(value);
    return Tensor::empty(spec.shape(), spec.dtype());
  }
  void make_stack(std::uint32_t value) {
    const Tensor& spec = plan_.tensor_of(value);
    stack_[value] = Tensor::empty(spec.shape().inserted(0, steps_), spec.dtype());
  }

  // Rows lie in the order of time, one more than steps: ascending, step t reads row t and gives
  // row t + 1; descending, it reads row t + 1 and gives row t.
  void carry(std::uint32_t in, std::uint32_t out, const Tensor& initial, bool whole) {
    const bool direct = in_loop_result(out) && !stack_[out].defined() &&
                        std::none_of(tracks_.begin(), tracks_.end(),
                                     [out](const Track& one) { return one.out == out; });
    tracks_.push_back(
        {in, out, whole, direct,
         Tensor::empty(initial.shape().inserted(0, whole ? steps_ + 1 : 2), initial.dtype())});
    Tensor first = tracks_.back().rows.row(whole && !ascending_ ? steps_ : 0);
    if (!first.is_abstract()) std::memcpy(first.bytes(), initial.bytes(), byte_count(initial));
  }
  // Rows as steps read and as they give them, [T, ...].
  Tensor track_before(const Track& track) const {
    return ascending_ ? track.rows.rows(0, steps_) : track.rows.rows(1, steps_ + 1);
  }
  Tensor track_after(const Track& track) const {
    return ascending_ ? track.rows.rows(1, steps_ + 1) : track.rows.rows(0, steps_);
  }
  Tensor last_row(const Track& track) const {
    return track.rows.row(!track.whole ? steps_ % 2 : ascending_ ? steps_ : 0);
  }

  Cursor over(const Tensor& rows) const {
    if (rows.is_abstract()) return {};
    const auto row =
        static_cast<std::ptrdiff_t>(byte_count(rows) / static_cast<std::size_t>(rows.size(0)));
    std::byte* const data = const_cast<std::byte*>(rows.bytes());
    return ascending_ ? Cursor{data, row} : Cursor{data + (rows.size(0) - 1) * row, -row};
  }
  Cursor carried_cursor(const Track& track, bool before) const {
    if (track.rows.is_abstract()) return {};
    if (track.whole) return over(before ? track_before(track) : track_after(track));
    const auto row = static_cast<std::ptrdiff_t>(byte_count(track.rows) / 2);
    std::byte* const data = const_cast<std::byte*>(track.rows.bytes());
    return before ? Cursor{data, row, true} : Cursor{data + row, -row, true};
  }
  Cursor cursor_of(std::uint32_t value) {
    for (const Track& track : tracks_) {
      if (track.in == value) return carried_cursor(track, true);
      if (track.direct && track.out == value) return carried_cursor(track, false);
    }
    if (stack_[value].defined()) return over(stack_[value]);
    if (!now_[value].defined()) now_[value] = empty_like(value);
    return {now_[value].bytes(), 0};
  }
  // The same data at every step.
  bool is_fixed(std::uint32_t value) const {
    return !in_loop_result(value) && !stack_[value].defined() && now_[value].defined() &&
           std::none_of(tracks_.begin(), tracks_.end(),
                        [value](const Track& track) { return track.in == value; });
  }

  void run_loop(std::size_t begin, std::size_t end, std::span<Tensor> sums) {
    share_stacks(begin, end);
    ScanLoop loop;
    for (std::size_t n = begin; n < end; ++n)
      if (plan_.place_[n] == Place::loop) add_call(loop, tape_.node(n));
    for (const Track& track : tracks_) {
      if (track.direct) continue;
      const Tensor& spec = plan_.tensor_of(track.in);
      if (track.out == none) {
        zeros_.push_back(Tensor::zeros(spec.shape(), spec.dtype()));
        loop.copy({zeros_.back().bytes(), 0}, carried_cursor(track, false), byte_count(spec));
      } else {
        loop.copy(cursor_of(track.out), carried_cursor(track, false), byte_count(spec));
      }
    }
    if (copied_output_)
      loop.copy(output_cursor(), over(stack_[plan_.output_]),
                byte_count(plan_.tensor_of(plan_.output_)));
    for (std::size_t c = 0; c < sums.size(); ++c)
      if (sums[c].defined()) loop.add(cursor_of(plan_.capture_grads_[c]), sums[c]);
    if (!detail::dry) loop.run(steps_);
  }

  void add_call(ScanLoop& loop, const Node& node) {
    std::vector<const Tensor*> in;
    std::vector<Cursor> inputs, outputs;
    const std::unique_ptr<bool[]> flags(new bool[node.input_count]);
    for (std::uint32_t i = 0; i < node.input_count; ++i) {
      const std::uint32_t value = node.inputs[i];
      flags[i] = is_fixed(value);
      in.push_back(flags[i] ? &now_[value] : &plan_.tensor_of(value));
      inputs.push_back(cursor_of(value));
    }
    for (std::uint32_t o = 0; o < node.output_count; ++o)
      outputs.push_back(cursor_of(node.first_output + o));
    loop.call(*node.op, Args(in), {flags.get(), node.input_count}, inputs, outputs);
  }

  // A node over all steps' rows, or once where none of its inputs is stacked.
  void run_together(std::size_t n, bool summed) {
    const Node& node = tape_.node(n);
    std::vector<Tensor> rows(node.input_count);
    std::vector<const Tensor*> in(node.input_count);
    bool stacked = false;
    for (std::uint32_t i = 0; i < node.input_count; ++i) {
      const std::uint32_t value = node.inputs[i];
      stacked = stacked || stack_[value].defined();
      rows[i] = stack_[value].defined() ? folded(stack_[value]) : now_[value];
      in[i] = &rows[i];
    }
    std::vector<Tensor> results(node.output_count);
    compute(*node.op, Args(in), results);
    for (std::uint32_t o = 0; o < node.output_count; ++o) {
      const std::uint32_t value = node.first_output + o;
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

  // Gives a loop result the stack of an operand that nothing else reads, where its op can compute
  // in place: what the input's product was becomes the whole gates.
  void share_stacks(std::size_t begin, std::size_t end) {
    std::vector<int> readers(now_.size(), 0);
    for (std::size_t n = begin; n < end; ++n)
      if (plan_.place_[n] != Place::unused)
        for (std::uint32_t i = 0; i < tape_.node(n).input_count; ++i)
          ++readers[tape_.node(n).inputs[i]];
    const std::uint32_t single[] = {plan_.output_, plan_.x_grad_};
    for (const std::span<const std::uint32_t> values :
         {std::span<const std::uint32_t>(single), std::span<const std::uint32_t>(plan_.saved_),
          std::span<const std::uint32_t>(plan_.states_out_),
          std::span<const std::uint32_t>(plan_.state_grads_),
          std::span<const std::uint32_t>(plan_.capture_grads_)})
      for (std::uint32_t value : values)
        if (value != none) ++readers[value];
    for (std::size_t n = begin; n < end; ++n) {
      if (plan_.place_[n] != Place::loop) continue;
      const Node& node = tape_.node(n);
      const std::uint32_t result = node.first_output;
      if (!stack_[result].defined() || plan_.tensor_of(result).rank() == 0) continue;
      std::vector<const Tensor*> in;
      for (std::uint32_t i = 0; i < node.input_count; ++i)
        in.push_back(&plan_.tensor_of(node.inputs[i]));
      const std::uint32_t may = node.op->in_place(Args(in));
      for (std::uint32_t i = 0; i < node.input_count; ++i) {
        const std::uint32_t value = node.inputs[i];
        if ((may >> i & 1) != 0 && readers[value] == 1 && stack_[value].unique() &&
            !in_loop_result(value)) {
          stack_[result] = stack_[value];
          break;
        }
      }
    }
  }

  Cursor output_cursor() {
    for (const Track& track : tracks_)
      if (track.in == plan_.output_) return carried_cursor(track, true);
    return {now_[plan_.output_].bytes(), 0};
  }

  void write_results(std::span<Tensor> out) {
    std::size_t next = 0;
    out[next++] = output_track_ < 0 ? stack_[plan_.output_]
                                    : track_after(tracks_[static_cast<std::size_t>(output_track_)]);
    // Copies: a state that is carried on should not keep a whole sequence alive.
    for (const Track& track : tracks_) out[next++] = last_row(track).clone();
    for (std::size_t k = 0; k < plan_.states(); ++k)
      if (plan_.tracked_[k]) out[next++] = tracks_[k].rows;
    for (std::uint32_t value : plan_.saved_) out[next++] = stack_[value];
  }

  // Stacks for what the loop computes and the nodes behind it read. Returns which values are kept;
  // the seeds among them are carried in stacks of their own.
  std::vector<bool> make_back_stacks() {
    std::vector<bool> kept(now_.size(), false);
    const auto is_seed = [&](std::uint32_t value) {
      const auto& seeds = plan_.state_seeds_;
      return std::find(seeds.begin(), seeds.end(), value) != seeds.end();
    };
    const auto keep = [&](std::uint32_t value) {
      if (value == none || kept[value] || stack_[value].defined()) return;
      kept[value] = in_loop_result(value) || is_seed(value);
      if (in_loop_result(value)) make_stack(value);
    };
    for (std::size_t n = plan_.forward_nodes_; n < tape_.size(); ++n) {
      if (plan_.place_[n] != Place::after && plan_.place_[n] != Place::summed) continue;
      const Node& node = tape_.node(n);
      for (std::uint32_t i = 0; i < node.input_count; ++i) keep(node.inputs[i]);
    }
    keep(plan_.x_grad_);
    for (std::uint32_t value : plan_.capture_grads_)
      if (value != none && is_seed(value)) keep(value);
    return kept;
  }
  // Gradients of captures that come step by step and are added up in the loop.
  std::vector<std::size_t> captures_summed_in_loop() const {
    std::vector<std::size_t> result;
    for (std::size_t c = 0; c < plan_.capture_grads_.size(); ++c) {
      const std::uint32_t value = plan_.capture_grads_[c];
      if (in_loop_result(value) && !stack_[value].defined()) result.push_back(c);
    }
    return result;
  }

  void write_gradients(std::span<Tensor> out, std::span<const Tensor> sums) {
    std::size_t next = 0;
    const std::uint32_t x_grad = plan_.x_grad_;
    if (x_grad != none)
      out[next] = stack_[x_grad].defined()
                      ? stack_[x_grad]
                      : expand(now_[x_grad], in_[0].shape());  // the same at every step
    ++next;
    for (const Track& track : tracks_) out[next++] = last_row(track).clone();
    for (std::size_t c = 0; c < plan_.captures(); ++c, ++next) {
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
  bool ascending_;
  std::vector<Tensor> now_;    // by value: the current step's, or the same for all
  std::vector<Tensor> stack_;  // by value: all steps' [T, ...]
  std::vector<Track> tracks_;
  std::deque<Tensor> zeros_;
  int output_track_ = -1;  // the state whose track holds the outputs too
  bool copied_output_ = false;
  std::size_t first_state_ = 0, after_inputs_ = 0;
};

int ScanPlan::result_count() const {
  return static_cast<int>(1 + states() + std::count(tracked_.begin(), tracked_.end(), true) +
                          saved_.size());
}

void ScanPlan::infer(Args in, std::span<Spec> out) const {
  const std::int64_t steps = in[0].size(0);
  const auto spec = [&](std::uint32_t value, std::int64_t rows) {
    const Tensor& one = tensor_of(value);
    return Spec{rows > 0 ? one.shape().inserted(0, rows) : one.shape(), one.dtype()};
  };
  std::size_t next = 0;
  out[next++] = spec(output_, steps);
  for (std::uint32_t value : states_in_) out[next++] = spec(value, 0);
  for (std::size_t k = 0; k < states(); ++k)
    if (tracked_[k]) out[next++] = spec(states_in_[k], steps + 1);
  for (std::uint32_t value : saved_) out[next++] = spec(value, steps);
}

void ScanPlan::run(Args in, std::span<Tensor> out) const {
  ScanRun(*this, in, !reverse_).forward(out);
}

void ScanPlan::run_back(Args in, std::span<Tensor> out) const {
  ScanRun(*this, in, reverse_).backward(out);
}

}  // namespace unroll::detail
