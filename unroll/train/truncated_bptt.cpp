#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/index.h>
#include <unroll/train/truncated_bptt.h>

namespace unroll {
namespace {

// The last `steps` of outputs in two parts, of which either may be missing.
Tensor last_steps(const Tensor& before, const Tensor& output, std::int64_t steps) {
  const std::int64_t have = output.size(0);
  if (steps == have) return output;
  if (steps < have) return slice(output, 0, have - steps);
  const std::int64_t more = steps - have;
  return concat({slice(before, 0, before.size(0) - more), output}, 0);
}

State detached(State state) {
  for (Tensor& one : state) one = one.detach();
  return state;
}

}  // namespace

Tensor run_stream(SequenceModel& model, const Tensor& x, std::int64_t k2, Carried& carried) {
  if (k2 < 0) fail("run_stream", fmt::format("k2 is {}", k2));
  const std::int64_t k1 = x.size(0), reach = k2 > 0 ? k2 : k1;
  if (k2 > 0 && !model.constant_state())
    fail("run_stream", fmt::format("the state of a {} grows with the stream", model.describe()),
         "Truncated back-propagation takes models whose state has one size");
  Tensor window = carried.past.defined() ? concat({carried.past, x}, 0) : x;
  State state = carried.state;
  Tensor constant;  // outputs of steps that no gradient reaches
  if (const std::int64_t skip = window.size(0) - reach; skip > 0) {
    const NoGrad unrecorded;
    Output before = model(window.rows(0, skip), state);
    constant = std::move(before.output);
    state = std::move(before.state);
    window = window.rows(skip, window.size(0));
  }
  Output all = model(window, state);
  // A chunk that fills the window leaves nothing to go through again.
  carried = k1 >= reach ? Carried{detached(std::move(all.state)), {}}
                        : Carried{detached(std::move(state)), window};
  return last_steps(constant, all.output, k1);
}

}  // namespace unroll
