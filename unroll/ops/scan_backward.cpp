#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/scan_run.h>

#include <algorithm>

namespace unroll::detail {

ScanBackward::ScanBackward(const ScanPlan& plan, Args in, std::int64_t chunk, bool overwrite)
    : ScanRun(plan, in, plan.reverse_, chunk),
      sums_(plan.captures()),
      stacked_(now_.size(), 0),
      ours_(now_.size(), 0) {
  take_forward_values(overwrite);
  const std::size_t first = plan_.forward_nodes_, last = tape_.size();
  run_once(0, last);
  const Flags whole = whole_values();
  make_loop_stacks(stacked_, whole);
  make_stacks(Place::before, first, last, whole);
  make_stacks(Place::after, first, last, whole);
  for (std::size_t k = 0; k < plan_.states(); ++k) {
    const std::uint32_t seed = plan_.state_seeds_[k];
    carry(seed, plan_.state_grads_[k], state_gradient(k), stacked_[seed] != 0);
    if (stacked_[seed] != 0) stack_[seed] = track_before(tracks_.back());
  }
  summed_in_loop_ = captures_summed_in_loop();
  make_sums();
  bind(first, last, sums_);
  find_input_gradient();
  begin(false);
}

void ScanBackward::restart(Args in) {
  take(in);
  take_forward_values(false);
  run_once(0, tape_.size());
  make_stacks_again();
  for (std::size_t k = 0; k < plan_.states(); ++k) {
    lay(tracks_[k], state_gradient(k));
    const std::uint32_t seed = plan_.state_seeds_[k];
    if (stacked_[seed] != 0) stack_[seed] = track_before(tracks_[k]);
  }
  make_sums();
  find_input_gradient();
  begin(true);
}

void ScanBackward::release() {
  ScanRun::release();
  for (Tensor& one : sums_) one = Tensor();
  input_gradient_ = Tensor();
}

void ScanBackward::make_sums() {
  for (std::size_t c : summed_in_loop_) {
    const Tensor& spec = plan_.tensor_of(plan_.capture_grads_[c]);
    sums_[c] = Tensor::zeros(spec.shape(), spec.dtype());
  }
}

void ScanBackward::find_input_gradient() {
  if (const std::uint32_t x = plan_.x_grad_; x != none)
    input_gradient_ =
        stack_[x].defined() ? stack_[x] : expand(now_[x], in_[0].shape());  // every step's
}

void ScanBackward::take_forward_values(bool overwrite) {
  std::size_t next = after_inputs_;
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
  for (std::uint32_t value : plan_.saved_) {
    ours_[value] = overwrite && in_[next].unique() ? 1 : 0;
    stack_[value] = in_[next++];
  }
  stack_[plan_.output_seed_] = in_[next++];
}

// What is read beyond its chunk: by sums over all steps, and by whoever asked for gradients.
ScanRun::Flags ScanBackward::whole_values() const {
  Flags whole(now_.size(), 0);
  for (std::size_t n = plan_.forward_nodes_; n < tape_.size(); ++n)
    if (plan_.place_[n] == Place::summed)
      for (std::uint32_t i = 0; i < tape_.node(n).input_count; ++i)
        whole[tape_.node(n).inputs[i]] = 1;
  if (plan_.x_grad_ != none) whole[plan_.x_grad_] = 1;
  for (std::uint32_t value : plan_.capture_grads_)
    if (value != none) whole[value] = 1;
  return whole;
}

// The saved value over whose rows a loop result can be computed, as nobody else reads them: what
// were the gates becomes their gradient.
std::uint32_t ScanBackward::overwritten_by(std::uint32_t value,
                                           const CachedVector<int>& readers) const {
  const Node& node = tape_.node(plan_.producer(value));
  CachedVector<const Tensor*> in;
  for (std::uint32_t i = 0; i < node.input_count; ++i)
    in.push_back(&plan_.tensor_of(node.inputs[i]));
  const std::uint32_t may = node.op->in_place(Args(in), value - node.first_output);
  for (std::uint32_t i = 0; i < std::min(node.input_count, 32u); ++i)
    if ((may >> i & 1) != 0 && ours_[node.inputs[i]] != 0 && readers[node.inputs[i]] == 1)
      return node.inputs[i];
  return none;
}

// Stacks for what the loop computes and the nodes behind it read. Flags which values are kept; the
// seeds among them are carried in stacks of their own.
void ScanBackward::make_loop_stacks(Flags& kept, const Flags& whole) {
  const auto is_seed = [&](std::uint32_t value) {
    const auto& seeds = plan_.state_seeds_;
    return std::find(seeds.begin(), seeds.end(), value) != seeds.end();
  };
  const CachedVector<int> readers = reader_counts(plan_.forward_nodes_, tape_.size());
  const auto keep = [&](std::uint32_t value) {
    if (value == none || kept[value] != 0 || stack_[value].defined()) return;
    kept[value] = in_loop(value) || is_seed(value) ? 1 : 0;
    if (!in_loop(value)) return;
    if (const std::uint32_t over = overwritten_by(value, readers); over != none) {
      stack_[value] = stack_[over];
      made_.push_back({value, over});
    } else {
      make_stack(value, whole[value] != 0);
    }
  };
  for (std::size_t n = plan_.forward_nodes_; n < tape_.size(); ++n) {
    if (plan_.place_[n] != Place::after && plan_.place_[n] != Place::summed) continue;
    const Node& node = tape_.node(n);
    for (std::uint32_t i = 0; i < node.input_count; ++i) keep(node.inputs[i]);
  }
  keep(plan_.x_grad_);
  for (std::uint32_t value : plan_.capture_grads_)
    if (value != none && is_seed(value)) keep(value);
}

// Gradients of captures that come step by step and are added up in the loop.
CachedVector<std::size_t> ScanBackward::captures_summed_in_loop() const {
  CachedVector<std::size_t> result;
  for (std::size_t c = 0; c < plan_.capture_grads_.size(); ++c) {
    const std::uint32_t value = plan_.capture_grads_[c];
    if (in_loop(value) && !stack_[value].defined()) result.push_back(c);
  }
  return result;
}

void ScanBackward::finish(std::span<Tensor> out) {
  for (std::size_t n = plan_.forward_nodes_; n < tape_.size(); ++n)
    if (plan_.place_[n] == Place::summed) run_whole(n);
  std::size_t next = 0;
  out[next++] = input_gradient_;
  for (const Track& track : tracks_) out[next++] = carried_row(track).clone();
  for (std::size_t c = 0; c < plan_.captures(); ++c, ++next) {
    const std::uint32_t value = plan_.capture_grads_[c];
    if (value == none) continue;
    if (sums_[c].defined()) {
      out[next] = sums_[c];
    } else if (stack_[value].defined()) {
      out[next] = sum(stack_[value], {0});
    } else if (plan_.place_of(value) == Place::once) {
      out[next] = now_[value] * static_cast<double>(steps_);
    } else {
      out[next] = now_[value];
    }
  }
}

}  // namespace unroll::detail
