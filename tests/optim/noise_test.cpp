// Gradient noise: its variance by step, where it goes, the same bits from the same numbers.

#include <unroll/optim/noise.h>

#include <cmath>

#include "../catch.h"
#include "../tensors.h"
#include "../train/setup.h"

using namespace unroll;

TEST_CASE("gradient noise has variance eta / (1 + step)^gamma around the gradient") {
  constexpr std::int64_t count = 20'000;
  for (const auto& [eta, gamma, step] : {std::tuple{0.3, 0.55, std::int64_t{0}},
                                         {1.0, 0.55, std::int64_t{9}},
                                         {0.01, 2.0, std::int64_t{3}}}) {
    CAPTURE(eta, gamma, step);
    Parameter p(Tensor::zeros({count}, DType::f64));
    p.set_grad(Tensor::full({count}, 3.0, DType::f64));
    Generator g(1);
    add_gradient_noise({p}, {.eta = eta, .gamma = gamma}, step, g);
    double mean = 0, square = 0;
    for (double x : p.grad().data<double>()) mean += (x - 3) / count;
    for (double x : p.grad().data<double>()) square += (x - 3 - mean) * (x - 3 - mean) / count;
    const double variance = eta / std::pow(1.0 + static_cast<double>(step), gamma);
    CHECK(mean == Approx(0).margin(4 * std::sqrt(variance / count)));
    CHECK(square == Approx(variance).epsilon(4 * std::sqrt(2.0 / count)));
    CHECK(difference(p.value(), Tensor::zeros({count}, DType::f64)) == 0);
  }
}

TEST_CASE("gradient noise: nothing where there is no gradient or no noise, others' copies stay") {
  Parameter with(Tensor::zeros({8})), without(Tensor::zeros({8}));
  const Tensor before = normal({8}, 2, DType::f32);
  with.set_grad(before);
  const Tensor kept = before.clone();
  Generator g(3);
  add_gradient_noise({without, with}, {.eta = 0}, 0, g);
  CHECK(same_bits(with.grad(), kept));
  CHECK(g.position() == 0);
  add_gradient_noise({without, with}, {.eta = 1}, 0, g);
  CHECK(!without.grad().defined());
  CHECK(!same_bits(with.grad(), kept));
  CHECK(same_bits(before, kept));  // somebody else's handle
  Parameter again(Tensor::zeros({8}));
  again.set_grad(kept);
  Generator same(3);
  add_gradient_noise({again}, {.eta = 1}, 0, same);
  CHECK(same_bits(again.grad(), with.grad()));

  CHECK_THROWS_AS(add_gradient_noise({with}, {.eta = -1}, 0, g), Error);
  CHECK_THROWS_AS(add_gradient_noise({with}, {.eta = 1, .gamma = -1}, 0, g), Error);
  CHECK_THROWS_AS(add_gradient_noise({with}, {.eta = NAN}, 0, g), Error);
  CHECK_THROWS_AS(add_gradient_noise({with}, {.eta = 1}, -1, g), Error);
  CHECK_THROWS_AS(add_gradient_noise({with, with}, {.eta = 1}, 0, g), Error);
}

TEST_CASE("training with gradient noise draws the batches of training without") {
  test::Setup plain(test::small(ModelKind::gru)), noisy(test::small(ModelKind::gru));
  plain.run({.steps = 5});
  noisy.run({.steps = 5, .gradient_noise = {.eta = 0.1}});
  CHECK(plain.generator.position() == noisy.generator.position());
  CHECK(!same_bits(plain.model->state_dict(), noisy.model->state_dict()));
}
