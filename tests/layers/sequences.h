#pragma once

// What the tests of scan and of recurrent layers share: small sequences, and a differentiation of
// everything that comes out by everything that goes in.

#include <unroll/graph/tape.h>
#include <unroll/layers/recurrent.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/reduce.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "../tensors.h"

namespace sequences {

using namespace unroll;
using ::difference;

inline constexpr std::int64_t steps = 4, batch = 3, inputs = 3, hidden = 4;

inline Tensor unsorted() { return Tensor::from<std::int64_t>({2, 4, 1}, {batch}); }

struct Result {
  std::vector<Tensor> values, grads;
};

// A weighted sum of outputs and last states, differentiated by the watched inputs and parameters.
inline Result differentiate(const std::function<Output(std::span<const Tensor>)>& f,
                            std::span<const Tensor> in, const std::vector<Parameter>& parameters) {
  Tape tape;
  std::vector<Tensor> watched;
  for (const Tensor& one : in) watched.push_back(tape.watch(one));
  const Output out = f(watched);
  Result result{.values = out.state, .grads = {}};
  result.values.push_back(out.output);
  Tensor loss;
  std::uint64_t seed = 60;
  for (const Tensor& value : result.values) {
    const Tensor part = sum(value * normal(value.shape(), seed++, value.dtype()));
    loss = loss.defined() ? loss + part : part;
  }
  result.grads = tape.gradient(loss, watched);
  for (Parameter parameter : parameters) parameter.zero_grad();
  tape.backward(loss);
  for (const Parameter& parameter : parameters) result.grads.push_back(parameter.grad());
  return result;
}

inline double difference(const Result& a, const Result& b) {
  if (a.values.size() != b.values.size() || a.grads.size() != b.grads.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i)
    worst = std::max(worst, difference(a.values[i], b.values[i]));
  for (std::size_t i = 0; i < a.grads.size(); ++i)
    worst = std::max(worst, difference(a.grads[i], b.grads[i]));
  return worst;
}

}  // namespace sequences
