#include <unroll/graph/generator.h>
#include <unroll/graph/threads.h>
#include <unroll/optim/adagrad.h>
#include <unroll/optim/adam.h>
#include <unroll/optim/clip.h>
#include <unroll/optim/rmsprop.h>
#include <unroll/optim/sgd.h>

#include <cmath>
#include <limits>

#include "../catch.h"

using namespace unroll;

namespace {

Parameter with_grad(const Tensor& grad) {
  Parameter parameter(Tensor::zeros(grad.shape(), grad.dtype()));
  parameter.set_grad(grad);
  return parameter;
}

}  // namespace

TEST_CASE("clip_grad_norm scales all gradients by one factor", "[optim]") {
  const Parameter a = with_grad(Tensor::from({3.0f, 0.0f}, {2}));
  const Parameter b = with_grad(Tensor::from({0.0, 4.0, 0.0}, {3}));
  const Parameter none(Tensor::zeros({2}));
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization): a handle keeps what it has
  const Tensor shared = a.grad();

  CHECK(clip_grad_norm({a, b, none}, 10) == 5);
  CHECK(b.grad().data<double>()[1] == 4);
  CHECK(clip_grad_norm({a, b, none}, 1) == 5);
  CHECK(std::abs(a.grad().data<float>()[0] - 0.6f) < 1e-6);
  CHECK(std::abs(b.grad().data<double>()[1] - 0.8) < 1e-6);
  CHECK(shared.data<float>()[0] == 3);
  CHECK(!none.grad().defined());
  CHECK(std::abs(clip_grad_norm({a, b, none}, 1) - 1) < 1e-6);
  CHECK(clip_grad_norm({none}, 1) == 0);
  clip_grad_norm({a, b}, 0);
  CHECK(a.grad().data<float>()[0] == 0);
}

TEST_CASE("a norm that is not finite leaves the gradients alone", "[optim]") {
  const Parameter a = with_grad(Tensor::from({3.0f, INFINITY}, {2}));
  const Parameter b = with_grad(Tensor::from({1.0f, 2.0f}, {2}));
  CHECK(std::isinf(clip_grad_norm({a, b}, 1)));
  CHECK(b.grad().data<float>()[1] == 2);
  b.state()->grad.mutable_data<float>()[0] = NAN;
  CHECK(std::isnan(clip_grad_norm({a, b}, 1)));
  CHECK(a.grad().data<float>()[0] == 3);
}

TEST_CASE("the norm is exact to double and the same with two threads", "[optim]") {
  const std::int64_t size = 300'017;
  Tensor grad = Tensor::empty({size});
  long double sum = 0;
  for (std::int64_t i = 0; float& x : grad.mutable_data<float>()) {
    x = static_cast<float>(std::sin(static_cast<double>(i++)));
    sum += static_cast<long double>(x) * x;
  }
  const Parameter parameter = with_grad(grad);
  const double norm = clip_grad_norm({parameter}, 1e9);
  CHECK(std::abs(norm - static_cast<double>(std::sqrt(sum))) < 1e-13 * norm);
  set_threads(2);
  CHECK(clip_grad_norm({parameter}, 1e9) == norm);
  set_threads(1);
}

TEST_CASE("clip_grad_value limits every element", "[optim]") {
  const Parameter a = with_grad(Tensor::from({3.0f, -0.5f, -7.0f, NAN, INFINITY}, {5}));
  clip_grad_value({a}, 1);
  const auto grad = a.grad().data<float>();
  CHECK(grad[0] == 1);
  CHECK(grad[1] == -0.5f);
  CHECK(grad[2] == -1);
  CHECK(std::isnan(grad[3]));
  CHECK(grad[4] == 1);
}

TEST_CASE("clipping refuses what makes no sense", "[optim]") {
  const Parameter a = with_grad(Tensor::from({3.0f}, {1}));
  CHECK_THROWS_AS(clip_grad_norm({a}, -1), Error);
  CHECK_THROWS_AS(clip_grad_norm({a}, NAN), Error);
  CHECK_THROWS_AS(clip_grad_norm({a, a}, 1), Error);
  CHECK_THROWS_AS(clip_grad_value({a}, -1), Error);
  CHECK_THROWS_AS(clip_grad_norm({with_grad(Tensor::zeros({1}, DType::i64))}, 1), Error);
}

namespace {

// A rule as a user writes it, which knows nothing of clipping.
struct Plain : Optimizer {
  explicit Plain(const std::vector<Parameter>& parameters)
      : Optimizer({{.parameters = parameters}},
                  {.name = "Plain", .learning_rate = 0.1, .moments = {}}) {}
  void update(const ParameterUpdate& p) const override {
    for (std::int64_t i = 0; i < p.value.numel(); ++i)
      p.value.mutable_ptr<double>()[i] -= p.learning_rate * p.grad.ptr<double>()[i];
  }
};

// Three steps, clipped within step() or ahead of it.
template <class Make>
void check_clipped_steps(const Make& make) {
  for (const double limit : {0.5, 1e6}) {
    std::vector<Tensor> results;
    for (const bool within : {true, false}) {
      Generator g(3);
      const std::vector<Parameter> all{Parameter(g.normal({3, 7}, 0, 1, DType::f64)),
                                       Parameter(g.normal({5}, 0, 1, DType::f64)),
                                       Parameter(g.normal({2}, 0, 1, DType::f64))};
      auto optimizer = make(all);
      for (int step = 0; step < 3; ++step) {
        for (Parameter p : {all[0], all[1]}) p.set_grad(g.normal(p.shape(), 0, 2, DType::f64));
        double norm = 0;
        if (within) {
          norm = optimizer.step({.clip_norm = limit});
        } else {
          norm = clip_grad_norm(all, limit);
          CHECK(optimizer.step() == 0);
        }
        results.push_back(Tensor::full({1}, norm, DType::f64));
      }
      for (const Parameter& p : all) results.push_back(p.value());
    }
    const std::size_t half = results.size() / 2;
    for (std::size_t i = 0; i < half; ++i)
      for (std::int64_t j = 0; j < results[i].numel(); ++j)
        CHECK(std::abs(results[i].ptr<double>()[j] - results[half + i].ptr<double>()[j]) < 1e-12);
  }
}

}  // namespace

TEST_CASE("step() clips as clip_grad_norm() does before it, for every rule", "[optim]") {
  check_clipped_steps([](const auto& p) { return Adam(p, {.weight_decay = 0.1}); });
  check_clipped_steps([](const auto& p) { return AdamW(p, {.amsgrad = true}); });
  check_clipped_steps([](const auto& p) { return SGD(p, {.momentum = 0.9}); });
  check_clipped_steps([](const auto& p) { return SGD(p, {}); });
  check_clipped_steps([](const auto& p) { return RMSprop(p, {}); });
  check_clipped_steps([](const auto& p) { return Adagrad(p, {}); });
  check_clipped_steps([](const auto& p) { return Plain(p); });
}

TEST_CASE("a step that clips leaves the gradients alone, and checks its limit", "[optim]") {
  Parameter a = with_grad(Tensor::full({4}, 10.0));
  Adam adam({a});
  CHECK(adam.step({.clip_norm = 1}) == 20);
  CHECK(a.grad().data<float>()[0] == 10.0f);
  const Tensor before = a.value().clone();
  CHECK_THROWS_AS(adam.step({.clip_norm = -1}), Error);
  CHECK_THROWS_AS(adam.step({.clip_norm = NAN}), Error);
  CHECK(a.value().data<float>()[0] == before.data<float>()[0]);
}
