#include <fmt/format.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>
#include <unroll/ops/scan.h>
#include <unroll/ops/scan_plan.h>

namespace unroll {
namespace {

using detail::ScanPlan;

struct ScanBackward : OpRecord<ScanBackward> {
  std::shared_ptr<const ScanPlan> plan;
  explicit ScanBackward(std::shared_ptr<const ScanPlan> p) : plan(std::move(p)) {}

  std::size_t input_count() const {
    return 1 + (plan->masked() ? 1 : 0) + plan->states() + plan->captures();
  }
  const char* name() const override { return "scan_backward"; }
  int outputs() const override { return static_cast<int>(1 + plan->states() + plan->captures()); }
  bool allocates() const override { return true; }
  bool differentiable() const override { return false; }
  void infer(Args in, std::span<Spec> out) const override {
    std::size_t next = 0;
    for (std::size_t i = 0; i < input_count(); ++i)
      if (i != 1 || !plan->masked()) out[next++] = in[i].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override { plan->run_back(in, out); }
};

struct Scan : OpRecord<Scan> {
  std::shared_ptr<const ScanPlan> plan;
  explicit Scan(std::shared_ptr<const ScanPlan> p) : plan(std::move(p)) {}

  const char* name() const override { return "scan"; }
  int outputs() const override { return plan->result_count(); }
  bool allocates() const override { return true; }
  void infer(Args in, std::span<Spec> out) const override { plan->infer(in, out); }
  void forward(Args in, std::span<Tensor> out) const override { plan->run(in, out); }
  Keep keep() const override { return {.inputs = ~0u, .outputs = ~0u}; }

  void vjp(Vjp& v) const override {
    const std::size_t results = 1 + plan->states();
    std::vector<const Tensor*> in;
    for (std::size_t i = 0; i < v.inputs.size(); ++i) in.push_back(&v.inputs[i]);
    for (std::size_t i = 0; i < v.outputs.size(); ++i) in.push_back(&v.outputs[i]);
    std::vector<Tensor> grads(results);
    for (std::size_t i = 0; i < results; ++i) {
      grads[i] = v.grad(i);
      in.push_back(&grads[i]);
    }
    const ScanBackward op(plan);
    std::vector<Tensor> out(static_cast<std::size_t>(op.outputs()));
    apply(op, Args(in), out, Where());
    std::size_t next = 0;
    for (std::size_t i = 0; i < v.inputs.size(); ++i)
      if (i != 1 || !plan->masked()) v.result[i] = std::move(out[next++]);
  }
};

// The slow twin: every op of every step on the tape.
Output unrolled(const Cell& cell, const Tensor& xs, const State& initial, const Tensor& mask,
                const ScanOptions& options, const Where& caller) {
  const std::int64_t steps = xs.size(0);
  std::vector<Tensor> outputs(static_cast<std::size_t>(steps));
  State state = initial;
  for (std::int64_t s = 0; s < steps; ++s) {
    const std::int64_t t = options.reverse ? steps - 1 - s : s;
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

}  // namespace

Output scan(const Cell& cell, const Tensor& xs, const State& state, const ScanOptions& options,
            Where where) {
  if (xs.rank() < 2 || xs.size(0) == 0)
    fail("scan",
         fmt::format("needs a sequence [T, B, ...] of one step or more, got {}", to_string(xs)),
         where);
  const Tensor mask = options.lengths.defined() ? length_mask("scan", options.lengths, xs.size(0),
                                                              xs.size(1), xs.dtype(), where)
                                                : Tensor();
  if (options.unrolled) return unrolled(cell, xs, state, mask, options, where);

  const auto plan =
      std::make_shared<ScanPlan>(cell, xs, state, mask.defined(), options.reverse, where);
  if (plan->random()) return unrolled(cell, xs, state, mask, options, where);
  std::vector<const Tensor*> in{&xs};
  if (mask.defined()) in.push_back(&mask);
  for (const Tensor& one : state) in.push_back(&one);
  const std::vector<Tensor> captures = plan->take_captures();
  for (const Tensor& one : captures) in.push_back(&one);
  const Scan op(plan);
  std::vector<Tensor> out(static_cast<std::size_t>(op.outputs()));
  apply(op, Args(in), out, where);
  return {out[0],
          State(out.begin() + 1, out.begin() + 1 + static_cast<std::ptrdiff_t>(plan->states()))};
}

}  // namespace unroll
