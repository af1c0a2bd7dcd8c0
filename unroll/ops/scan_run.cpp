#include <unroll/graph/bytes.h>
#include <unroll/ops/scan_run.h>

#include <algorithm>
#include <cstring>

namespace unroll::detail {
namespace {

std::ptrdiff_t row_bytes(const Tensor& rows) {
  return static_cast<std::ptrdiff_t>(bytes_of(rows)) / std::max<std::int64_t>(rows.size(0), 1);
}

// [T, B, ...] as the rows [T * B, ...] of all steps.
Tensor folded(const Tensor& stack) {
  Shape shape = stack.shape().without(0);
  shape[0] *= stack.size(0);
  return stack.viewed(shape);
}

}  // namespace

std::int64_t scan_chunk(std::int64_t steps, std::int64_t batch) {
  // Enough rows for a product to reach its speed, few enough to stay in the cache.
  constexpr std::int64_t rows = 256;
  if (batch < 1) return steps;
  const std::int64_t chunk = std::clamp<std::int64_t>(rows / batch, 1, steps);
  // Equal chunks need no calls of their own for the last one.
  for (std::int64_t more = 0; more <= chunk / 2; ++more) {
    if (steps % (chunk + more) == 0) return chunk + more;
    if (steps % (chunk - more) == 0) return chunk - more;
  }
  return chunk;
}

ScanRun::ScanRun(const ScanPlan& plan, Args in, bool ascending, std::int64_t chunk)
    : plan_(plan),
      tape_(*plan.tape_),
      in_(in),
      steps_(in[0].size(0)),
      chunk_(std::min(chunk, in[0].size(0))),
      ascending_(ascending),
      now_(tape_.value_count()),
      stack_(tape_.value_count()),
      of_chunk_(tape_.value_count(), 0) {
  take(in);
}

void ScanRun::take(Args in) {
  in_ = in;
  done_ = 0;
  std::size_t next = 0;
  stack_[plan_.x_] = in[next++];
  if (plan_.masked_) stack_[plan_.mask_] = in[next++];
  first_state_ = next;
  next += plan_.states();
  for (std::uint32_t value : plan_.capture_values_) now_[value] = in[next++];
  after_inputs_ = next;
  for (std::uint32_t value = 0; value < now_.size(); ++value)
    if (plan_.is_constant(value)) now_[value] = plan_.tensor_of(value);
}

void ScanRun::release() {
  CachedVector<Tensor> kept(now_.size());
  for (std::uint32_t value : temporaries_) kept[value] = std::move(now_[value]);
  now_ = std::move(kept);
  for (Tensor& one : stack_) one = Tensor();
  for (Track& track : tracks_) track.rows = Tensor();
  in_ = Args();
}

void ScanRun::begin(bool again) {
  if (dry) return;
  bases_.clear();
  for (Tensor& one : stack_) bases_.push_back(one.bytes());
  for (Tensor& one : now_) bases_.push_back(one.bytes());
  for (Track& track : tracks_) bases_.push_back(track.rows.bytes());
  for (Tensor& one : zeros_) bases_.push_back(one.bytes());
  for (ScanLoop* calls : {&ahead_.full, &ahead_.rest, &loop_, &behind_.full, &behind_.rest})
    calls->begin(bases_, again);
}

bool ScanRun::in_loop(std::uint32_t value) const {
  return value != none && !plan_.is_constant(value) &&
         tape_.node(plan_.producer(value)).op != nullptr && plan_.place_of(value) == Place::loop;
}

bool ScanRun::together(std::uint32_t value, std::size_t begin) const {
  return value != none && !plan_.is_constant(value) && plan_.producer(value) >= begin &&
         (plan_.place_of(value) == Place::before || plan_.place_of(value) == Place::after);
}

Tensor ScanRun::empty_like(std::uint32_t value) const {
  const Tensor& spec = plan_.tensor_of(value);
  return Tensor::empty(spec.shape(), spec.dtype());
}

// --- What is computed for all steps at once.

void ScanRun::run_once(std::size_t begin, std::size_t end) {
  for (std::size_t n = begin; n < end; ++n)
    if (plan_.place_[n] == Place::once) run_whole(n);
}

void ScanRun::run_whole(std::size_t n) {
  const Node& node = tape_.node(n);
  CachedVector<Tensor> rows(node.input_count);
  CachedVector<const Tensor*> in(node.input_count);
  for (std::uint32_t i = 0; i < node.input_count; ++i) {
    const std::uint32_t value = node.inputs[i];
    rows[i] = stack_[value].defined() ? folded(stack_[value]) : now_[value];
    in[i] = &rows[i];
  }
  CachedVector<Tensor> results(node.output_count);
  node.op->compute(Args(in), results);
  for (std::uint32_t o = 0; o < node.output_count; ++o) now_[node.first_output + o] = results[o];
}

// --- What is carried. Rows lie in the order of time, one more than steps: ascending, step t reads
// row t and gives row t + 1; descending, it reads row t + 1 and gives row t.

void ScanRun::carry(std::uint32_t in, std::uint32_t out, const Tensor& initial, bool whole) {
  const bool direct =
      in_loop(out) && !stack_[out].defined() &&
      std::none_of(tracks_.begin(), tracks_.end(), [out](const Track& t) { return t.out == out; });
  tracks_.push_back({in, out, whole, direct, Tensor()});
  lay(tracks_.back(), initial);
}

void ScanRun::lay(Track& track, const Tensor& initial) const {
  track.rows =
      Tensor::empty(initial.shape().inserted(0, track.whole ? steps_ + 1 : 2), initial.dtype());
  Tensor first = carried_row(track);
  if (!first.is_abstract()) std::memcpy(first.bytes(), initial.bytes(), bytes_of(initial));
}

Tensor ScanRun::track_before(const Track& track) const {
  return ascending_ ? track.rows.rows(0, steps_) : track.rows.rows(1, steps_ + 1);
}

Tensor ScanRun::track_after(const Track& track) const {
  return ascending_ ? track.rows.rows(1, steps_ + 1) : track.rows.rows(0, steps_);
}

Tensor ScanRun::carried_row(const Track& track) const {
  return track.rows.row(!track.whole ? done_ % 2 : ascending_ ? done_ : steps_ - done_);
}

// --- Memory of the others.

void ScanRun::make_stack(std::uint32_t value, bool whole) {
  of_chunk_[value] = whole || chunk_ == steps_ ? 0 : 1;
  stack_[value] = empty_stack(value);
  made_.push_back({value, none});
}

Tensor ScanRun::empty_stack(std::uint32_t value) const {
  const Tensor& spec = plan_.tensor_of(value);
  return Tensor::empty(spec.shape().inserted(0, of_chunk_[value] != 0 ? chunk_ : steps_),
                       spec.dtype());
}

void ScanRun::make_stacks_again() {
  for (const Made& one : made_)
    stack_[one.value] = one.over == none ? empty_stack(one.value) : stack_[one.over];
}

void ScanRun::make_stacks(Place place, std::size_t begin, std::size_t end, const Flags& whole) {
  const CachedVector<std::uint32_t> results = in_place_results(begin, end);
  for (std::size_t n = begin; n < end; ++n) {
    if (plan_.place_[n] != place) continue;
    const Node& node = tape_.node(n);
    for (std::uint32_t o = 0; o < node.output_count; ++o) {
      const std::uint32_t value = node.first_output + o;
      if (results[value] != none) {
        stack_[value] = stack_[results[value]];
        of_chunk_[value] = of_chunk_[results[value]];
        made_.push_back({value, results[value]});
      } else {
        make_stack(value, whole[value] != 0);
      }
    }
  }
}

// How often a value is read by nodes, and by whoever gets the results.
CachedVector<int> ScanRun::reader_counts(std::size_t begin, std::size_t end) const {
  CachedVector<int> readers(now_.size(), 0);
  for (std::size_t n = begin; n < end; ++n)
    if (plan_.place_[n] != Place::unused)
      for (std::uint32_t i = 0; i < tape_.node(n).input_count; ++i)
        ++readers[tape_.node(n).inputs[i]];
  const std::uint32_t single[] = {plan_.output_, plan_.x_grad_};
  for (const std::span<const std::uint32_t> values :
       {std::span<const std::uint32_t>(single), std::span<const std::uint32_t>(plan_.states_out_),
        std::span<const std::uint32_t>(plan_.state_grads_),
        std::span<const std::uint32_t>(plan_.capture_grads_)})
    for (std::uint32_t value : values)
      if (value != none) ++readers[value];
  return readers;
}

CachedVector<std::uint32_t> ScanRun::in_place_results(std::size_t begin, std::size_t end) const {
  CachedVector<std::uint32_t> results(now_.size(), none);
  CachedVector<int> readers = reader_counts(begin, end);
  for (std::uint32_t value : plan_.saved_) ++readers[value];
  for (std::size_t n = begin; n < end; ++n) {
    if (plan_.place_[n] != Place::loop) continue;
    const Node& node = tape_.node(n);
    const std::uint32_t result = node.first_output;
    if (!stack_[result].defined() || plan_.tensor_of(result).rank() == 0) continue;
    CachedVector<const Tensor*> in;
    for (std::uint32_t i = 0; i < node.input_count; ++i)
      in.push_back(&plan_.tensor_of(node.inputs[i]));
    const std::uint32_t may = node.op->in_place(Args(in), 0);
    for (std::uint32_t i = 0; i < std::min(node.input_count, 32u); ++i) {
      const std::uint32_t value = node.inputs[i];
      if ((may >> i & 1) != 0 && readers[value] == 1 && together(value, begin) &&
          plan_.place_of(value) == Place::before) {
        results[value] = result;
        break;
      }
    }
  }
  return results;
}

// --- Calls.

// Where a chunk of `count` rows lies: of full chunks the first, else the only one.
Cursor ScanRun::rows_cursor(std::uint32_t value, std::int64_t count) const {
  const Tensor& rows = stack_[value];
  if (rows.is_abstract()) return {};
  const std::ptrdiff_t row = row_bytes(rows), full = steps_ / chunk_ * chunk_;
  const std::size_t base = base_of_stack(value);
  const bool rest = count < chunk_;
  if (of_chunk_[value] != 0) return {base, ascending_ ? 0 : (chunk_ - count) * row};
  if (ascending_) return {base, rest ? full * row : 0, chunk_ * row};
  return {base, rest ? 0 : (steps_ - chunk_) * row, -chunk_ * row};
}

// Step by step over a stack.
Cursor ScanRun::over(std::uint32_t value) const {
  const Tensor& rows = stack_[value];
  if (rows.is_abstract()) return {};
  const std::ptrdiff_t row = row_bytes(rows);
  const std::size_t base = base_of_stack(value);
  const bool restarts = of_chunk_[value] != 0;
  if (ascending_) return {base, 0, row, false, restarts};
  return {base, (rows.size(0) - 1) * row, -row, false, restarts};
}

Cursor ScanRun::carried_cursor(const Track& track, bool before) const {
  if (track.rows.is_abstract()) return {};
  const std::ptrdiff_t row = row_bytes(track.rows);
  const std::size_t base = base_of_track(track);
  if (!track.whole) return before ? Cursor{base, 0, row, true} : Cursor{base, row, -row, true};
  if (ascending_) return {base, before ? 0 : row, row};
  return {base, (before ? steps_ : steps_ - 1) * row, -row};
}

Cursor ScanRun::cursor_of(std::uint32_t value) {
  for (const Track& track : tracks_) {
    if (track.in == value) return carried_cursor(track, true);
    if (track.direct && track.out == value) return carried_cursor(track, false);
  }
  if (stack_[value].defined()) return over(value);
  if (!now_[value].defined()) {
    now_[value] = empty_like(value);
    temporaries_.push_back(value);
  }
  return {base_of_now(value)};
}

// The same data at every step.
bool ScanRun::is_fixed(std::uint32_t value) const {
  return !in_loop(value) && !stack_[value].defined() && now_[value].defined() &&
         std::none_of(tracks_.begin(), tracks_.end(),
                      [value](const Track& track) { return track.in == value; });
}

void ScanRun::add_step(const Node& node) {
  CachedVector<const Tensor*> in;
  CachedVector<Cursor> inputs, outputs;
  bool* const fixed = arena_.make_array<bool>(node.input_count);
  for (std::uint32_t i = 0; i < node.input_count; ++i) {
    const std::uint32_t value = node.inputs[i];
    fixed[i] = is_fixed(value);
    in.push_back(fixed[i] ? &now_[value] : &plan_.tensor_of(value));
    inputs.push_back(cursor_of(value));
  }
  for (std::uint32_t o = 0; o < node.output_count; ++o)
    outputs.push_back(cursor_of(node.first_output + o));
  loop_.call(*node.op, Args(in), {fixed, node.input_count}, inputs, outputs);
}

void ScanRun::add_together(ScanLoop& calls, const Node& node, std::int64_t count) {
  CachedVector<Tensor> rows(node.input_count);
  CachedVector<const Tensor*> in;
  CachedVector<Cursor> inputs, outputs;
  bool* const fixed = arena_.make_array<bool>(node.input_count);
  for (std::uint32_t i = 0; i < node.input_count; ++i) {
    const std::uint32_t value = node.inputs[i];
    if (!stack_[value].defined()) {
      fixed[i] = count == chunk_ && steps_ >= 2 * chunk_;  // used once, a weight is not laid out
      in.push_back(&now_[value]);
      inputs.push_back({base_of_now(value)});
      continue;
    }
    Shape shape = plan_.tensor_of(value).shape();
    shape[0] *= count;
    rows[i] = Tensor::abstract(shape, stack_[value].dtype());
    in.push_back(&rows[i]);
    inputs.push_back(rows_cursor(value, count));
  }
  for (std::uint32_t o = 0; o < node.output_count; ++o)
    outputs.push_back(rows_cursor(node.first_output + o, count));
  calls.call(*node.op, Args(in), {fixed, node.input_count}, inputs, outputs);
}

void ScanRun::bind(std::size_t begin, std::size_t end, std::span<Tensor> sums) {
  for (std::size_t n = begin; n < end; ++n) {
    const Node& node = tape_.node(n);
    const Place place = plan_.place_[n];
    if (place == Place::loop) add_step(node);
    if (place != Place::before && place != Place::after) continue;
    Together& calls = place == Place::before ? ahead_ : behind_;
    add_together(calls.full, node, chunk_);
    if (steps_ % chunk_ != 0) add_together(calls.rest, node, steps_ % chunk_);
  }
  for (const Track& track : tracks_) {
    if (track.direct) continue;
    const Tensor& spec = plan_.tensor_of(track.in);
    if (track.out == none) {
      const std::size_t base = 2 * now_.size() + tracks_.size() + zeros_.size();
      zeros_.push_back(Tensor::zeros(spec.shape(), spec.dtype()));
      loop_.copy({base}, carried_cursor(track, false), bytes_of(spec));
    } else {
      loop_.copy(cursor_of(track.out), carried_cursor(track, false), bytes_of(spec));
    }
  }
  if (copied_output_)
    loop_.copy(output_cursor(), over(plan_.output_), bytes_of(plan_.tensor_of(plan_.output_)));
  for (std::size_t c = 0; c < sums.size(); ++c)
    if (sums[c].defined()) loop_.add(cursor_of(plan_.capture_grads_[c]), sums[c]);
}

Cursor ScanRun::output_cursor() {
  for (const Track& track : tracks_)
    if (track.in == plan_.output_) return carried_cursor(track, true);
  return {base_of_now(plan_.output_)};
}

void ScanRun::advance() {
  const std::int64_t count = std::min(chunk_, steps_ - done_);
  if (!dry) {
    const bool rest = count < chunk_;
    (rest ? ahead_.rest : ahead_.full).run(1);
    loop_.run(count);
    (rest ? behind_.rest : behind_.full).run(1);
  }
  done_ += count;
}

}  // namespace unroll::detail
