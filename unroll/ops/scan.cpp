#include <fmt/format.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>
#include <unroll/ops/scan.h>
#include <unroll/ops/scan_checkpoint.h>
#include <unroll/ops/scan_group.h>

namespace unroll {
namespace {

using detail::fail_second_gradient;
using detail::ScanBackward;
using detail::ScanForward;
using detail::ScanGroup;
using detail::ScanPlan;
using detail::ScanRuns;

// What a traced record keeps from run to run of its program; nothing for a recorded one, which runs
// once.
template <class Run>
std::shared_ptr<ScanRuns<Run>> runs_to_keep() {
  if (Tape::current() == nullptr || !Tape::current()->traces()) return nullptr;
  return std::make_shared<ScanRuns<Run>>(true);
}

template <class Run, class F>
void with_runs(const std::shared_ptr<ScanRuns<Run>>& kept, const F& f) {
  if (kept == nullptr || detail::dry) {
    ScanRuns<Run> once(false);
    return f(once);
  }
  try {
    f(*kept);
  } catch (...) {
    kept->clear();
    throw;
  }
}

struct ScanBackwardOp : OpRecord<ScanBackwardOp> {
  std::shared_ptr<const ScanGroup> group;
  bool overwrite;
  std::shared_ptr<ScanRuns<ScanBackward>> runs = runs_to_keep<ScanBackward>();
  ScanBackwardOp(std::shared_ptr<const ScanGroup> g, bool o) : group(std::move(g)), overwrite(o) {}

  const char* name() const override { return "scan_backward"; }
  int outputs() const override {
    return static_cast<int>(group->input_count() - (group->masked() ? 1 : 0));
  }
  bool allocates() const override { return true; }
  void vjp(Vjp&) const override { fail_second_gradient(); }
  void infer(Args in, std::span<Spec> out) const override {
    std::size_t next = 0;
    for (std::size_t i = 0; i < group->input_count(); ++i)
      if (i != 1 || !group->masked()) out[next++] = in[i].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_runs(runs, [&](auto& all) { group->run_back(in, out, overwrite, all); });
  }
};

struct ScanOp : OpRecord<ScanOp> {
  std::shared_ptr<const ScanGroup> group;
  std::shared_ptr<ScanRuns<ScanForward>> runs = runs_to_keep<ScanForward>();
  explicit ScanOp(std::shared_ptr<const ScanGroup> g) : group(std::move(g)) {}

  const char* name() const override { return "scan"; }
  int outputs() const override { return static_cast<int>(group->result_count()); }
  bool allocates() const override { return true; }
  void infer(Args in, std::span<Spec> out) const override { group->infer(in, out); }
  void forward(Args in, std::span<Tensor> out) const override {
    with_runs(runs, [&](auto& all) { group->run(in, out, all); });
  }
  Keep keep() const override {
    std::uint32_t outputs = 0;  // those behind the 32nd are kept anyway
    for (std::size_t result : group->kept_results())
      if (result < 32) outputs |= 1u << result;
    return {.inputs = ~0u, .outputs = outputs};
  }

  void vjp(Vjp& v) const override {
    CachedVector<const Tensor*> in;
    for (std::size_t i = 0; i < v.inputs.size(); ++i) in.push_back(&v.inputs[i]);
    for (std::size_t result : group->kept_results()) in.push_back(&v.outputs[result]);
    CachedVector<Tensor> gradients;
    for (std::size_t m = 0; m < group->size(); ++m)
      for (std::size_t i = group->hidden(m) ? 1 : 0; i <= group->plan(m).states(); ++i)
        gradients.push_back(v.grad(group->results_of(m) + i));
    for (const Tensor& one : gradients) in.push_back(&one);
    const ScanBackwardOp op(group, v.last);
    CachedVector<Tensor> out(static_cast<std::size_t>(op.outputs()));
    apply(op, Args(in), out, Where());
    std::size_t next = 0;
    for (std::size_t i = 0; i < v.inputs.size(); ++i)
      if (i != 1 || !group->masked()) v.result[i] = std::move(out[next++]);
  }
};

// The slow twin: every op of every step on the tape.
Output unrolled(const Cell& cell, const Tensor& xs, const State& initial, const Tensor& mask,
                bool reverse, const Where& caller) {
  const std::int64_t steps = xs.size(0);
  std::vector<Tensor> outputs(static_cast<std::size_t>(steps));
  State state = initial;
  for (std::int64_t s = 0; s < steps; ++s) {
    const std::int64_t t = reverse ? steps - 1 - s : s;
    Output step = cell(select(xs, 0, t), state);
    detail::check_state(state, step.state, caller);
    if (mask.defined()) {
      const auto m = [&](const Tensor& like) {
        Shape shape = mask.shape().without(0);
        while (shape.rank() < like.rank()) shape = shape.inserted(shape.rank(), 1);
        return mask.row(t).viewed(shape);
      };
      step.output = where(m(step.output), step.output, Tensor::zeros({}, step.output.dtype()));
      for (std::size_t k = 0; k < state.size(); ++k)
        step.state[k] = where(m(state[k]), step.state[k], state[k]);
    }
    outputs[t] = step.output;
    state = std::move(step.state);
  }
  return {stack(outputs, 0), state};
}

void check(const Cell& cell, const State& state, const Where& where) {
  if (!cell) fail("scan", "the cell is an empty function", where, "Give a lambda or a cell");
  for (std::size_t k = 0; k < state.size(); ++k)
    if (!state[k].defined())
      fail("scan", fmt::format("tensor {} of the initial state is undefined", k), where,
           "Give zeros of the state's shape, such as the cell's initial_state()");
}

void check(const Tensor& xs, const ScanOptions& options, const Where& where) {
  if (xs.rank() < 2 || xs.size(0) == 0)
    fail("scan",
         fmt::format("needs a sequence [T, B, ...] of one step or more, got {}", to_string(xs)),
         where);
  if (options.checkpoint_every < 0)
    fail("scan", fmt::format("checkpoint_every is {}", options.checkpoint_every), where,
         "A positive number of steps, or 0 to compute nothing again");
}

// [T, B, 1], or undefined where every sequence fills T.
Tensor mask_of(const ScanOptions& options, const Tensor& xs, const Where& where) {
  if (!options.lengths.defined()) return {};
  return length_mask("scan", options.lengths, xs.size(0), xs.size(1), xs.dtype(), where);
}

Spec step_of(const Tensor& xs) { return {xs.shape().without(0), xs.dtype()}; }

// Each member by itself.
std::vector<Output> one_by_one(ScanGroup::Kind kind, std::span<const ScanMember> members,
                               const Tensor& xs, const ScanOptions& options, const Where& where) {
  std::vector<Output> results;
  for (const ScanMember& member : members) {
    ScanOptions own = options;
    own.reverse = options.reverse != member.reverse;
    const bool first = kind == ScanGroup::Kind::parallel || results.empty();
    Output result = scan(member.cell, first ? xs : results.back().output, member.state, own, where);
    if (!first) results.back().output = Tensor();
    results.push_back(std::move(result));
  }
  return results;
}

// The plans, or nothing where a cell draws random numbers.
std::vector<std::unique_ptr<ScanPlan>> plans_of(ScanGroup::Kind kind,
                                                std::span<const ScanMember> members,
                                                const Tensor& xs, const ScanOptions& options,
                                                const Where& where) {
  const Tape* const outer = Tape::current();
  std::vector<std::unique_ptr<ScanPlan>> plans;
  Spec x = step_of(xs);
  bool needs_x = outer != nullptr && outer->needs_grad(xs);
  for (const ScanMember& member : members) {
    const ScanPlan::Options own{.masked = options.lengths.defined(),
                                .reverse = options.reverse != member.reverse,
                                .needs_x = needs_x};
    plans.push_back(std::make_unique<ScanPlan>(member.cell, x, member.state, own, where));
    if (plans.back()->random()) return {};
    if (kind == ScanGroup::Kind::parallel) continue;
    x = plans.back()->output();
    needs_x = plans.back()->differentiates();
  }
  return plans;
}

std::vector<Output> scan_together(ScanGroup::Kind kind, std::span<const ScanMember> members,
                                  const Tensor& xs, const ScanOptions& options,
                                  const Where& where) {
  check(xs, options, where);
  if (members.empty()) return {};
  for (const ScanMember& member : members) check(member.cell, member.state, where);
  for (const ScanMember& member : members)
    if (kind == ScanGroup::Kind::stack && member.reverse != members[0].reverse)
      fail("scan_stack", "its members run in different directions", where,
           "Run those of each direction in a stack of their own");
  // One op keeps what its last member needs until its first has been walked back through: that is
  // worth it where threads share the work.
  const bool separate = members.size() > 1 && detail::is_alone();
  if (separate || options.unrolled || options.checkpoint_every > 0)
    return one_by_one(kind, members, xs, options, where);
  auto plans = plans_of(kind, members, xs, options, where);
  if (plans.empty()) {
    ScanOptions loop = options;
    loop.unrolled = true;
    return one_by_one(kind, members, xs, loop, where);
  }
  std::vector<std::vector<Tensor>> captures;
  for (const auto& plan : plans) captures.push_back(plan->take_captures());
  const Tensor mask = mask_of(options, xs, where);
  std::vector<const Tensor*> in{&xs};
  if (mask.defined()) in.push_back(&mask);
  for (std::size_t m = 0; m < members.size(); ++m) {
    for (const Tensor& one : members[m].state) in.push_back(&one);
    for (const Tensor& one : captures[m]) in.push_back(&one);
  }
  const ScanOp op(std::make_shared<ScanGroup>(kind, std::move(plans)));
  std::vector<Tensor> out(static_cast<std::size_t>(op.outputs()));
  apply(op, Args(in), out, where);
  std::vector<Output> results;
  for (std::size_t m = 0; m < members.size(); ++m) {
    const auto first = out.begin() + static_cast<std::ptrdiff_t>(op.group->results_of(m));
    const auto states = static_cast<std::ptrdiff_t>(members[m].state.size());
    results.push_back(
        {op.group->hidden(m) ? Tensor() : *first, State(first + 1, first + 1 + states)});
  }
  return results;
}

}  // namespace

Output scan(const Cell& cell, const Tensor& xs, const State& state, const ScanOptions& options,
            Where where) {
  check(xs, options, where);
  check(cell, state, where);
  const bool checkpoints = options.checkpoint_every > 0 && options.checkpoint_every < xs.size(0);
  if (options.unrolled || checkpoints) {
    const Tensor mask = mask_of(options, xs, where);
    if (!options.unrolled) return checkpointed_scan(cell, xs, state, mask, options, where);
    return unrolled(cell, xs, state, mask, options.reverse, where);
  }
  ScanOptions kept = options;
  kept.checkpoint_every = 0;
  const ScanMember member{cell, state};
  return scan_together(ScanGroup::Kind::parallel, std::span(&member, 1), xs, kept, where)[0];
}

std::vector<Output> scan_parallel(std::span<const ScanMember> members, const Tensor& xs,
                                  const ScanOptions& options, Where where) {
  return scan_together(ScanGroup::Kind::parallel, members, xs, options, where);
}

std::vector<Output> scan_stack(std::span<const ScanMember> members, const Tensor& xs,
                               const ScanOptions& options, Where where) {
  return scan_together(ScanGroup::Kind::stack, members, xs, options, where);
}

}  // namespace unroll
