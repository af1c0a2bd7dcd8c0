#include <fmt/format.h>
#include <unroll/layers/parallel_cell.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/lengths.h>

namespace unroll {

Output ParallelCell::run(const Tensor& x, const RecurrentCall& call, Where caller) const {
  const std::string name = describe();
  if (x.rank() != 3 || x.size(2) != input_size() || x.size(0) < 1)
    throw ShapeError(error_message(
        name.c_str(),
        fmt::format("the input is {}, expected [T, B, {}]", to_string(x.shape()), input_size()),
        &caller, x.rank() == 2 ? "Give a single sequence a batch axis with unsqueeze()" : ""));
  State state = initial_state(x.size(1), x.dtype());
  if (!call.state.empty()) {
    if (call.state.size() != state.size())
      fail(name.c_str(),
           fmt::format("its state has {} tensors, got {}", state.size(), call.state.size()),
           caller);
    for (std::size_t k = 0; k < state.size(); ++k)
      if (call.state[k].shape() != state[k].shape())
        throw ShapeError(error_message(
            name.c_str(),
            fmt::format("state {} is {}, expected {}", k, to_string(call.state[k].shape()),
                        to_string(state[k].shape())),
            &caller, "Give it what an earlier call returned"));
    state = call.state;
  }
  if (call.unrolled)
    return scan([this](const Tensor& step, const State& s) { return (*this)(step, s); }, x, state,
                {.lengths = call.lengths, .unrolled = true}, caller);
  if (!call.lengths.defined()) return parallel(x, state, {}, caller);
  // First of all: this is where lengths that cannot be are refused.
  const Tensor mask =
      length_mask(name.c_str(), call.lengths, x.size(0), x.size(1), x.dtype(), caller);
  Output result = parallel(x, state, call.lengths, caller);
  result.output = where(mask, result.output, Tensor::zeros({}, x.dtype()), caller);
  return result;
}

Tensor detail::within(const Tensor& x, double outside, const Tensor& lengths, const Where& caller) {
  if (!lengths.defined()) return x;
  const Tensor mask = length_mask("lengths", lengths, x.size(0), x.size(1), x.dtype(), caller);
  return where(mask, x, Tensor::full({}, outside, x.dtype()), caller);
}

}  // namespace unroll
