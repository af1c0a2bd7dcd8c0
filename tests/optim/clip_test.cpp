#include <unroll/graph/threads.h>
#include <unroll/optim/clip.h>

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
