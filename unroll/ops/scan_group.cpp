#include <unroll/graph/accumulate.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/scan_group.h>

#include <algorithm>

namespace unroll::detail {
namespace {

// The runs' chunks, each run `lag` chunks behind the one before it: those of a moment side by side.
template <class Run>
void advance_together(const CachedVector<Run*>& runs, std::int64_t lag) {
  const auto count = static_cast<std::int64_t>(runs.size());
  const std::int64_t chunks = runs[0]->chunks(), moments = chunks + (count - 1) * lag;
  for (std::int64_t moment = 0; moment < moments; ++moment) {
    const auto advance = [&](std::int64_t i) {
      if (i * lag <= moment && moment < i * lag + chunks)
        runs[static_cast<std::size_t>(i)]->advance();
    };
    if (dry) {  // which other threads would not know of
      for (std::int64_t i = 0; i < count; ++i) advance(i);
      continue;
    }
    const std::int64_t first = lag == 0 ? 0 : std::max<std::int64_t>(0, moment - chunks + 1);
    const std::int64_t last = lag == 0 ? count : std::min(moment + 1, count);
    constexpr double much = 1e12;  // split() has weighed it
    parallel_for(last - first, 1, much, [&](std::int64_t i, std::int64_t) {
      const Alone alone;
      advance(first + i);
    });
  }
}

}  // namespace

std::size_t ScanGroup::inputs_of(std::size_t member) const {
  std::size_t first = masked() ? 2 : 1;
  for (std::size_t i = 0; i < member; ++i) first += plan(i).states() + plan(i).captures();
  return first;
}

std::size_t ScanGroup::results_of(std::size_t member) const {
  std::size_t first = 0;
  for (std::size_t i = 0; i < member; ++i) first += 1 + plan(i).states() + plan(i).kept();
  return first;
}

CachedVector<std::size_t> ScanGroup::kept_results() const {
  CachedVector<std::size_t> kept;
  for (std::size_t i = 0; i < size(); ++i) {
    const std::size_t output = results_of(i), first = output + 1 + plan(i).states();
    if (hidden(i)) kept.push_back(output);
    for (std::size_t r = first; r < first + plan(i).kept(); ++r) kept.push_back(r);
  }
  return kept;
}

std::size_t ScanGroup::kept_of(std::size_t member) const {
  std::size_t first = 0;
  for (std::size_t i = 0; i < member; ++i) first += plan(i).kept() + (hidden(i) ? 1 : 0);
  return first;
}

std::size_t ScanGroup::gradients_of(std::size_t member) const {
  std::size_t first = 0;
  for (std::size_t i = 0; i < member; ++i) first += plan(i).states() + (hidden(i) ? 0 : 1);
  return first;
}

void ScanGroup::infer(Args in, std::span<Spec> out) const {
  const std::int64_t steps = in[0].size(0);
  std::size_t next = 0;
  for (const auto& one : plans_) {
    const Spec output = one->output();
    out[next++] = {output.shape.inserted(0, steps), output.dtype};
    for (std::size_t k = 0; k < one->states(); ++k) out[next++] = one->state(k);
    one->infer_kept(steps, out.subspan(next));
    next += one->kept();
  }
}

// Side by side where a chunk of each is worth waking a thread for. Otherwise the products
// themselves are dealt to threads, and should be as large as they can be.
ScanGroup::Split ScanGroup::split(const Tensor& xs) const {
  const std::int64_t steps = xs.size(0), batch = xs.size(1), chunk = scan_chunk(steps, batch);
  if (is_alone()) return {false, chunk};
  double least = plan(0).capture_elements();
  for (std::size_t i = 1; i < size(); ++i) least = std::min(least, plan(i).capture_elements());
  constexpr double worth_a_thread = 4e6;  // products of two numbers
  const bool many = size() > 1 && static_cast<double>(chunk * batch) * least >= worth_a_thread;
  return {many, many ? chunk : steps};
}

ScanGroup::Operands ScanGroup::forward_operands(std::size_t member, Args in,
                                                const Tensor& xs) const {
  Operands operands{&xs};
  if (masked()) operands.push_back(&in[1]);
  for (std::size_t k = inputs_of(member); k < inputs_of(member + 1); ++k)
    operands.push_back(&in[k]);
  return operands;
}

void ScanGroup::run(Args in, std::span<Tensor> out, ScanRuns<ScanForward>& runs) const {
  const auto [side_by_side, chunk] = split(in[0]);
  runs.prepare(size(), side_by_side, chunk);
  CachedVector<ScanForward*> together;
  CachedVector<Operands> operands(size());
  for (std::size_t i = 0; i < size(); ++i) {
    const bool first = kind_ == Kind::parallel || i == 0;
    if (side_by_side) {
      const Alone bound_for_one_thread;
      operands[i] = forward_operands(i, in, first ? in[0] : runs[i - 1].output());
      together.push_back(&runs.begin(i, plan(i), Args(operands[i]), true));
    } else {
      operands[i] = forward_operands(i, in, first ? in[0] : out[results_of(i - 1)]);
      ScanForward& run = runs.begin(i, plan(i), Args(operands[i]), true);
      for (std::int64_t c = 0; c < run.chunks(); ++c) run.advance();
      run.finish(out.subspan(results_of(i)));
      runs.end(i);
    }
  }
  if (!side_by_side) return;
  advance_together(together, kind_ == Kind::stack ? 1 : 0);
  for (std::size_t i = 0; i < size(); ++i) {
    runs[i].finish(out.subspan(results_of(i)));
    runs.end(i);
  }
}

ScanGroup::Operands ScanGroup::backward_operands(std::size_t member, Args in,
                                                 const Tensor* output_gradient) const {
  const std::size_t results = input_count();
  const bool first = kind_ == Kind::parallel || member == 0;
  Operands operands =
      forward_operands(member, in, first ? in[0] : in[results + kept_of(member - 1)]);
  const std::size_t kept = results + kept_of(member) + (hidden(member) ? 1 : 0);
  for (std::size_t k = kept; k < kept + plan(member).kept(); ++k) operands.push_back(&in[k]);
  std::size_t next = results + kept_of(size()) + gradients_of(member);
  operands.push_back(output_gradient != nullptr ? output_gradient : &in[next++]);
  for (std::size_t k = 0; k < plan(member).states(); ++k) operands.push_back(&in[next++]);
  return operands;
}

void ScanGroup::run_back(Args in, std::span<Tensor> out, bool overwrite,
                         ScanRuns<ScanBackward>& runs) const {
  const auto [side_by_side, chunk] = split(in[0]);
  runs.prepare(size(), side_by_side, chunk);
  CachedVector<ScanBackward*> together;  // the last member's first
  CachedVector<Operands> operands(size());
  CachedVector<CachedVector<Tensor>> results(size());
  CachedVector<Tensor> seeds(size());
  for (std::size_t i = size(); i-- > 0;) {
    results[i].resize(1 + plan(i).states() + plan(i).captures());
    if (!plan(i).differentiates()) continue;
    if (hidden(i)) {
      seeds[i] = side_by_side ? together.back()->input_gradient() : results[i + 1][0];
      if (!seeds[i].defined())
        seeds[i] = Tensor::zeros(in[input_count() + kept_of(i)].shape(), in[0].dtype());
    }
    operands[i] = backward_operands(i, in, hidden(i) ? &seeds[i] : nullptr);
    if (side_by_side) {
      const Alone bound_for_one_thread;
      together.push_back(&runs.begin(i, plan(i), Args(operands[i]), overwrite));
    } else {
      ScanBackward& run = runs.begin(i, plan(i), Args(operands[i]), overwrite);
      for (std::int64_t c = 0; c < run.chunks(); ++c) run.advance();
      run.finish(results[i]);
      runs.end(i);
    }
  }
  if (!together.empty()) {
    advance_together(together, kind_ == Kind::stack ? 1 : 0);
    for (std::size_t i = size(); i-- > 0;) {
      if (!plan(i).differentiates()) continue;
      runs[i].finish(results[i]);
      runs.end(i);
    }
  }
  std::size_t next = 1;
  for (std::size_t i = 0; i < size(); ++i) {
    if (kind_ == Kind::parallel || i == 0) {
      Tensor& x = results[i][0];
      if (x.defined()) {
        if (out[0].defined()) {
          accumulate_into(out[0], x);
        } else {
          out[0] = std::move(x);
        }
      }
    }
    for (std::size_t k = 1; k < results[i].size(); ++k) out[next++] = std::move(results[i][k]);
  }
}

}  // namespace unroll::detail
