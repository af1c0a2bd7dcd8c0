#include <unroll/ops/scan_run.h>

#include <algorithm>

namespace unroll::detail {

ScanForward::ScanForward(const ScanPlan& plan, Args in, std::int64_t chunk, bool keep)
    : ScanRun(plan, in, !plan.reverse_, chunk), keep_(keep) {
  const std::size_t end = plan_.forward_nodes_;
  run_once(0, end);
  // Among states that are one and the same value.
  const auto is_first = [&](std::size_t k) {
    const auto& values = plan_.states_out_;
    return std::find(values.begin(), values.end(), values[k]) - values.begin() ==
           static_cast<std::ptrdiff_t>(k);
  };
  for (std::size_t k = 0; k < plan_.states(); ++k) {
    const std::uint32_t value = plan_.states_out_[k];
    const bool holds_output = value == plan_.output_ && in_loop(value) && is_first(k);
    if (holds_output && output_track_ < 0) output_track_ = static_cast<int>(k);
    carry(plan_.states_in_[k], value, in_[first_state_ + k],
          (keep_ && plan_.tracked_[k]) || holds_output);
  }
  Flags whole(now_.size(), 0);
  whole[plan_.output_] = 1;
  if (keep_)
    for (std::uint32_t value : plan_.saved_) {
      whole[value] = 1;
      if (in_loop(value)) make_stack(value, true);
    }
  make_output(whole);
  bind(0, end, {});
  begin(false);
}

void ScanForward::restart(Args in) {
  take(in);
  run_once(0, plan_.forward_nodes_);
  for (std::size_t k = 0; k < plan_.states(); ++k) lay(tracks_[k], in_[first_state_ + k]);
  make_stacks_again();
  find_output();
  begin(true);
}

void ScanForward::release() {
  ScanRun::release();
  output_ = Tensor();
}

// The output's memory, and that of all others which are computed together.
void ScanForward::make_output(const Flags& whole) {
  const std::uint32_t value = plan_.output_;
  const bool separate = output_track_ < 0 && !stack_[value].defined() && !together(value, 0);
  if (separate) make_stack(value, true);
  make_stacks(Place::before, 0, plan_.forward_nodes_, whole);
  copied_output_ = separate && !in_loop(value);
  find_output();
}

void ScanForward::find_output() {
  output_ = output_track_ < 0 ? stack_[plan_.output_]
                              : track_after(tracks_[static_cast<std::size_t>(output_track_)]);
}

void ScanForward::finish(std::span<Tensor> out) const {
  std::size_t next = 0;
  out[next++] = output_;
  // Copies: a state that is carried on should not keep a whole sequence alive.
  for (const Track& track : tracks_) out[next++] = carried_row(track).clone();
  if (!keep_) return;
  for (std::size_t k = 0; k < plan_.states(); ++k)
    if (plan_.tracked_[k]) out[next++] = tracks_[k].rows;
  for (std::uint32_t value : plan_.saved_) out[next++] = stack_[value];
}

}  // namespace unroll::detail
