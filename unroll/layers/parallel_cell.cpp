#include <fmt/format.h>
#include <unroll/layers/parallel_cell.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/lengths.h>

namespace unroll {

State ParallelCell::initial_state(std::int64_t batch, DType dtype) const {
  State state;
  for (const Shape& shape : state_shapes(batch)) state.push_back(Tensor::zeros(shape, dtype));
  return state;
}

void ParallelCell::check(const Tensor& x, const State& state, const Where& caller) const {
  const auto wrong = [&](const std::string& problem, const char* hint) {
    throw ShapeError(error_message(describe().c_str(), problem, &caller, hint));
  };
  if (x.rank() != 3 || x.size(2) != input_size() || x.size(0) < 1)
    wrong(fmt::format("the input is {}, expected [T, B, {}]", to_string(x.shape()), input_size()),
          x.rank() == 2 ? "Give a single sequence a batch axis with unsqueeze()" : "");
  if (state.empty()) return;
  const std::vector<Shape> expected = state_shapes(x.size(1));
  if (state.size() != expected.size())
    wrong(fmt::format("its state has {} tensors, got {}", expected.size(), state.size()), "");
  for (std::size_t k = 0; k < expected.size(); ++k)
    if (state[k].shape() != expected[k])
      wrong(fmt::format("state {} is {}, expected {}", k, to_string(state[k].shape()),
                        to_string(expected[k])),
            "Give it what an earlier call returned");
}

Output ParallelCell::run(const Tensor& x, const RecurrentCall& call, Where caller) const {
  check(x, call.state, caller);
  const State state = call.state.empty() ? initial_state(x.size(1), x.dtype()) : call.state;
  if (call.unrolled)
    return scan([this](const Tensor& step, const State& s) { return (*this)(step, s); }, x, state,
                {.lengths = call.lengths, .unrolled = true}, caller);
  if (!call.lengths.defined()) return parallel(x, state, {}, caller);
  // First of all: this is where lengths that cannot be are refused.
  const Tensor mask =
      length_mask(describe().c_str(), call.lengths, x.size(0), x.size(1), x.dtype(), caller);
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
