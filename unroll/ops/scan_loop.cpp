#include <unroll/ops/scan_loop.h>

#include <algorithm>
#include <cstring>

namespace unroll::detail {
namespace {

void add_to(Tensor& sum, const std::byte* part) {
  with_float("scan", sum.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* const total = sum.mutable_ptr<T>();
    const T* const terms = reinterpret_cast<const T*>(part);
    for (std::int64_t i = 0; i < sum.numel(); ++i) total[i] += terms[i];
  });
}

}  // namespace

std::size_t ScanLoop::place(const Cursor& cursor) {
  if (cursor.alternates) alternating_.push_back(cursors_.size());
  if (cursor.restarts) restarts_.push_back({cursors_.size(), nullptr});
  cursors_.push_back(cursor);
  return cursors_.size() - 1;
}

std::size_t ScanLoop::place(std::span<const Cursor> cursors) {
  const std::size_t first = cursors_.size();
  for (const Cursor& cursor : cursors) place(cursor);
  return first;
}

void ScanLoop::call(const Op& op, Args in, std::span<const bool> fixed,
                    std::span<const Cursor> inputs, std::span<const Cursor> outputs) {
  const bool any = std::find(fixed.begin(), fixed.end(), true) != fixed.end();
  calls_.push_back({op.bind(in, fixed, arena_), place(inputs), place(outputs), any});
}

void ScanLoop::copy(const Cursor& from, const Cursor& to, std::size_t bytes) {
  copies_.push_back({place(from), place(to), bytes});
}

void ScanLoop::add(const Cursor& part, Tensor& sum) { sums_.push_back({place(part), &sum}); }

void ScanLoop::begin(std::span<std::byte* const> bases, bool refreshed) {
  begun_ = false;
  places_.resize(cursors_.size());
  steps_.resize(cursors_.size());
  for (std::size_t i = 0; i < cursors_.size(); ++i) {
    places_[i] = bases[cursors_[i].base] + cursors_[i].at;
    steps_[i] = cursors_[i].step;
  }
  for (Restart& restart : restarts_) restart.at = places_[restart.place];
  if (!refreshed) return;
  for (const Call& call : calls_)
    if (call.any_fixed) call.kernel->refresh(places_.data() + call.inputs);
}

// Ahead of every step but the first: beyond the last there is no place.
void ScanLoop::move() {
  for (std::size_t i = 0; i < places_.size(); ++i) places_[i] += steps_[i];
  for (std::size_t i : alternating_) steps_[i] = -steps_[i];
}

void ScanLoop::run(std::int64_t steps) {
  for (std::int64_t s = 0; s < steps; ++s) {
    if (begun_) move();
    begun_ = true;
    if (s == 0)
      for (const Restart& restart : restarts_) places_[restart.place] = restart.at;
    std::byte** const places = places_.data();
    for (const Call& call : calls_)
      call.kernel->run(const_cast<const std::byte* const*>(places + call.inputs),
                       places + call.outputs);
    for (const Copy& copy : copies_) std::memcpy(places[copy.to], places[copy.from], copy.bytes);
    for (const Sum& sum : sums_) add_to(*sum.sum, places[sum.part]);
  }
}

}  // namespace unroll::detail
