#include <unroll/layers/sequential.h>

namespace unroll {

Output Sequential::operator()(const Tensor& input, const State& state) const {
  std::size_t expected = 0;
  for (const Step& step : steps_) expected += step.states;
  if (!state.empty() && state.size() != expected)
    fail("Sequential", "its layers carry " + std::to_string(expected) + " state tensors, got " +
                           std::to_string(state.size()));
  Output result{input, {}};
  auto next = state.begin();
  for (const Step& step : steps_) {
    State own;
    if (!state.empty()) {
      own.assign(next, next + static_cast<std::ptrdiff_t>(step.states));
      next += static_cast<std::ptrdiff_t>(step.states);
    }
    Output one = step.run(result.output, own);
    result.output = std::move(one.output);
    for (Tensor& tensor : one.state) result.state.push_back(std::move(tensor));
  }
  return result;
}

}  // namespace unroll
