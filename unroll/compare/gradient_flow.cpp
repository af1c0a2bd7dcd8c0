#include <unroll/compare/probes.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>

#include <cmath>

namespace unroll {
namespace {

double squared_norm(const Tensor& tensor) {
  double sum = 0;
  const Tensor exact = tensor.to(DType::f64);
  for (double x : exact.data<double>()) sum += x * x;
  return sum;
}

// A random orthogonal matrix: Gram and Schmidt's, twice, which is enough for f64's precision.
Tensor orthogonal(std::int64_t n, Generator& generator) {
  Tensor q = generator.normal({n, n}, 0, 1, DType::f64);
  double* rows = q.mutable_ptr<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    double* row = rows + i * n;
    for (int pass = 0; pass < 2; ++pass)
      for (std::int64_t j = 0; j < i; ++j) {
        double dot = 0;
        for (std::int64_t k = 0; k < n; ++k) dot += row[k] * rows[j * n + k];
        for (std::int64_t k = 0; k < n; ++k) row[k] -= dot * rows[j * n + k];
      }
    double norm = 0;
    for (std::int64_t k = 0; k < n; ++k) norm += row[k] * row[k];
    for (std::int64_t k = 0; k < n; ++k) row[k] /= std::sqrt(norm);
  }
  return q;
}

// Gradients by each step's state, the latest step first.
GradientFlow norms_of(Tape& tape, const Tensor& loss, const std::vector<State>& states) {
  std::vector<Tensor> wrt;
  for (const State& state : states)
    for (const Tensor& one : state) wrt.push_back(one);
  const std::vector<Tensor> grads = tape.gradient(loss, wrt);
  GradientFlow flow;
  std::size_t next = grads.size();
  for (std::size_t t = states.size(); t-- > 0;) {
    double sum = 0;
    for (std::size_t k = 0; k < states[t].size(); ++k) sum += squared_norm(grads[--next]);
    flow.norms.push_back(std::sqrt(sum));
  }
  return flow;
}

}  // namespace

GradientFlow gradient_flow(SequenceModel& model, const Tensor& x,
                           const std::function<Tensor(const Tensor&)>& loss) {
  const bool training = model.training();
  model.eval();
  const std::int64_t steps = x.size(0);
  Tape tape;
  GradientFlow flow;
  if (model.constant_state()) {
    // Step by step, so that every state between two steps is a value on the tape.
    std::vector<State> states;
    Output step;
    for (std::int64_t t = 0; t < steps; ++t) {
      if (t > 0) states.push_back(step.state);
      step = model(slice(x, 0, t, t + 1), step.state);
    }
    flow = norms_of(tape, loss(select(step.output, 0, 0)), states);
  } else {
    const Tensor embedded = tape.watch(model.embed(x));
    const Output all = model.run(embedded, {});
    const Tensor grad = tape.gradient(loss(select(all.output, 0, steps - 1)), {embedded})[0];
    for (std::int64_t t = steps; t-- > 0;)
      flow.norms.push_back(std::sqrt(squared_norm(grad.row(t))));
  }
  model.train(training);
  return flow;
}

GradientFlow linear_gradient_flow(double radius, std::int64_t steps, std::int64_t size,
                                  Generator& generator) {
  const Parameter weight(affine(orthogonal(size, generator), radius, 0).to(DType::f32));
  const Tensor x = generator.normal({steps, 1, size}, 0, 1);
  Tape tape;
  std::vector<State> states;
  Tensor h = Tensor::zeros({1, size});
  for (std::int64_t t = 0; t < steps; ++t) {
    h = matmul(h, weight, {.transpose_b = true, .add = select(x, 0, t)});
    states.push_back({h});
  }
  return norms_of(tape, sum(h * generator.normal({1, size}, 0, 1)), states);
}

}  // namespace unroll
