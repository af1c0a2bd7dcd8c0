#include <unroll/graph/accumulate.h>
#include <unroll/graph/bytes.h>
#include <unroll/ops/scan_checkpoint.h>
#include <unroll/ops/scan_run.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace unroll {
namespace {

using detail::fail_second_gradient;
using detail::ScanBackward;
using detail::ScanForward;
using detail::ScanPlan;

// What both ops know: the plan, and how the steps are cut into segments, which are numbered in the
// order in which they run.
struct Segments {
  std::shared_ptr<const ScanPlan> plan;
  std::int64_t every;

  std::int64_t count(std::int64_t steps) const { return (steps + every - 1) / every; }
  Tensor rows(const Tensor& all, std::int64_t segment) const {
    const std::int64_t steps = all.size(0), first = segment * every,
                       last = std::min(first + every, steps);
    return plan->reverse() ? all.rows(steps - last, steps - first) : all.rows(first, last);
  }
  std::size_t streams() const { return plan->masked() ? 2 : 1; }
  /// xs, mask, states, captures.
  std::size_t inputs() const { return streams() + plan->states() + plan->captures(); }
};

void copy_into(Tensor to, const Tensor& from) {
  if (to.is_abstract()) return;
  std::memcpy(to.bytes(), from.bytes(), bytes_of(from));
}

struct CheckpointedBackwardOp : OpRecord<CheckpointedBackwardOp> {
  Segments segments;
  bool output_gradient;  // is there one?
  CheckpointedBackwardOp(Segments s, bool o) : segments(std::move(s)), output_gradient(o) {}

  const char* name() const override { return "checkpointed_scan_backward"; }
  int outputs() const override {
    return static_cast<int>(1 + segments.plan->states() + segments.plan->captures());
  }
  bool allocates() const override { return true; }
  void vjp(Vjp&) const override { fail_second_gradient(); }
  void infer(Args in, std::span<Spec> out) const override {
    std::size_t next = 0;
    for (std::size_t i = 0; i < segments.inputs(); ++i)
      if (i == 0 || i >= segments.streams()) out[next++] = in[i].spec();
  }

  // in: the inputs, the states at each segment's beginning, the gradients of last states and, where
  // there is one, of output.
  void forward(Args in, std::span<Tensor> out) const override {
    const ScanPlan& plan = *segments.plan;
    const std::size_t states = plan.states(), inputs = segments.inputs();
    CachedVector<Tensor> carried(states);
    for (std::size_t k = 0; k < states; ++k) carried[k] = in[inputs + states + k];
    for (std::int64_t s = segments.count(in[0].size(0)); s-- > 0;) {
      CachedVector<Tensor> own;  // the segment's
      for (std::size_t i = 0; i < segments.streams(); ++i) own.push_back(segments.rows(in[i], s));
      for (std::size_t k = 0; k < states; ++k) own.push_back(in[inputs + k].row(s));
      for (std::size_t c = segments.streams() + states; c < inputs; ++c) own.push_back(in[c]);
      add_segment(in, own, carried, s, out);
    }
    for (std::size_t k = 0; k < states; ++k) out[1 + k] = std::move(carried[k]);
  }

 private:
  void add_segment(Args in, CachedVector<Tensor>& own, CachedVector<Tensor>& carried,
                   std::int64_t segment, std::span<Tensor> out) const {
    const ScanPlan& plan = *segments.plan;
    const std::size_t states = plan.states();
    const std::int64_t steps = own[0].size(0);
    const std::int64_t chunk = detail::scan_chunk(steps, own[0].size(1));
    CachedVector<Tensor> kept(1 + states + plan.kept());
    {
      const CachedVector<const Tensor*> args = pointers(own);
      ScanForward run(plan, Args(args), chunk, true);
      for (std::int64_t c = 0; c < run.chunks(); ++c) run.advance();
      run.finish(kept);
    }
    for (std::size_t i = 1 + states; i < kept.size(); ++i) own.push_back(std::move(kept[i]));
    own.push_back(output_gradient ? segments.rows(in[segments.inputs() + 2 * states], segment)
                                  : Tensor::zeros(kept[0].shape(), kept[0].dtype()));
    kept[0] = Tensor();
    for (const Tensor& one : carried) own.push_back(one);
    CachedVector<Tensor> results(static_cast<std::size_t>(outputs()));
    {
      const CachedVector<const Tensor*> args = pointers(own);
      ScanBackward run(plan, Args(args), chunk, true);
      for (std::int64_t c = 0; c < run.chunks(); ++c) run.advance();
      run.finish(results);
    }
    if (results[0].defined()) {
      if (!out[0].defined()) out[0] = Tensor::empty(in[0].shape(), in[0].dtype());
      copy_into(segments.rows(out[0], segment), results[0]);
    }
    for (std::size_t k = 0; k < states; ++k) carried[k] = std::move(results[1 + k]);
    for (std::size_t c = 1 + states; c < results.size(); ++c) {
      if (!results[c].defined()) continue;
      if (out[c].defined()) {
        accumulate_into(out[c], results[c]);
      } else {
        out[c] = std::move(results[c]);
      }
    }
  }

  static CachedVector<const Tensor*> pointers(const CachedVector<Tensor>& tensors) {
    CachedVector<const Tensor*> result;
    for (const Tensor& one : tensors) result.push_back(&one);
    return result;
  }
};

// Results: output [T, ...], last states, and of each state the values at the beginning of every
// segment [segments, ...].
struct CheckpointedOp : OpRecord<CheckpointedOp> {
  Segments segments;
  explicit CheckpointedOp(Segments s) : segments(std::move(s)) {}

  const char* name() const override { return "checkpointed_scan"; }
  int outputs() const override { return static_cast<int>(1 + 2 * segments.plan->states()); }
  bool allocates() const override { return true; }
  void infer(Args in, std::span<Spec> out) const override {
    const std::int64_t steps = in[0].size(0);
    const std::size_t states = segments.plan->states();
    const Spec output = segments.plan->output();
    out[0] = {output.shape.inserted(0, steps), output.dtype};
    for (std::size_t k = 0; k < states; ++k) {
      const Spec state = segments.plan->state(k);
      out[1 + k] = state;
      out[1 + states + k] = {state.shape.inserted(0, segments.count(steps)), state.dtype};
    }
  }

  void forward(Args in, std::span<Tensor> out) const override {
    const std::size_t states = segments.plan->states();
    CachedVector<Spec> specs(out.size());
    infer(in, specs);
    for (std::size_t k = 0; k < states; ++k)
      out[1 + states + k] = Tensor::empty(specs[1 + states + k].shape, specs[1 + states + k].dtype);
    ScanForward run(*segments.plan, in, segments.every, false);
    for (std::int64_t s = 0; s < run.chunks(); ++s) {
      for (std::size_t k = 0; k < states; ++k) copy_into(out[1 + states + k].row(s), run.state(k));
      run.advance();
    }
    run.finish(out.first(1 + states));
  }

  Keep keep() const override {
    const std::size_t states = segments.plan->states();
    std::uint32_t checkpoints = 0;
    for (std::size_t i = 1 + states; i < 1 + 2 * states && i < 32; ++i) checkpoints |= 1u << i;
    return {.inputs = ~0u, .outputs = checkpoints};
  }

  void vjp(Vjp& v) const override {
    const std::size_t states = segments.plan->states();
    CachedVector<Tensor> gradients;
    for (std::size_t k = 0; k < states; ++k) gradients.push_back(v.grad(1 + k));
    if (v.grads[0].defined()) gradients.push_back(v.grads[0]);
    CachedVector<const Tensor*> in;
    for (std::size_t i = 0; i < v.inputs.size(); ++i) in.push_back(&v.inputs[i]);
    for (std::size_t k = 0; k < states; ++k) in.push_back(&v.outputs[1 + states + k]);
    for (const Tensor& one : gradients) in.push_back(&one);
    const CheckpointedBackwardOp op(segments, v.grads[0].defined());
    CachedVector<Tensor> out(static_cast<std::size_t>(op.outputs()));
    apply(op, Args(in), out, Where());
    std::size_t next = 0;
    for (std::size_t i = 0; i < v.inputs.size(); ++i)
      if (i == 0 || i >= segments.streams()) v.result[i] = std::move(out[next++]);
  }
};

}  // namespace

Output checkpointed_scan(const Cell& cell, const Tensor& xs, const State& state, const Tensor& mask,
                         const ScanOptions& options, const Where& where) {
  const Tape* const outer = Tape::current();
  auto plan = std::make_shared<ScanPlan>(
      cell, Spec{xs.shape().without(0), xs.dtype()}, state,
      ScanPlan::Options{.masked = mask.defined(),
                        .reverse = options.reverse,
                        .needs_x = outer != nullptr && outer->needs_grad(xs)},
      where);
  if (plan->random())
    fail("scan", "with checkpoint_every its cell must not draw random numbers", where,
         "They would be others when it is computed again: draw them before and pass them in xs");
  const std::vector<Tensor> captures = plan->take_captures();
  std::vector<const Tensor*> in{&xs};
  if (mask.defined()) in.push_back(&mask);
  for (const Tensor& one : state) in.push_back(&one);
  for (const Tensor& one : captures) in.push_back(&one);
  const CheckpointedOp op({std::move(plan), options.checkpoint_every});
  std::vector<Tensor> out(static_cast<std::size_t>(op.outputs()));
  apply(op, Args(in), out, where);
  return {out[0],
          State(out.begin() + 1, out.begin() + 1 + static_cast<std::ptrdiff_t>(state.size()))};
}

}  // namespace unroll
