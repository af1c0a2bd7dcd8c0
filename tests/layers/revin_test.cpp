#include <unroll/graph/gradient_check.h>
#include <unroll/graph/tape.h>
#include <unroll/layers/revin.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/reduce.h>

#include <cmath>

#include "../catch.h"

using namespace unroll;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) { return max(abs(a - b)).item(); }

// Weights that are neither 1 nor near 0, biases that are not 0.
RevIN& with_affine(RevIN& layer, Generator& g) {
  layer.to(DType::f64);
  layer.affine_weight.set_value(g.uniform({3}, 0.5, 2, DType::f64));
  layer.affine_bias.set_value(g.normal({3}, 0, 1, DType::f64));
  return layer;
}

}  // namespace

TEST_CASE("RevIN gives every channel of every window mean 0 and deviation 1", "[layers]") {
  Generator g(1);
  const Tensor x = g.normal({40, 2, 3}, 7, 5, DType::f64);
  const RevIN layer({.channels = 3, .affine = false});
  const auto [y, centre, deviation] = layer.normalize(x);
  CHECK(largest_difference(mean(y, {0}), Tensor::zeros({2, 3}, DType::f64)) < 1e-12);
  CHECK(largest_difference(mean(square(y), {0}), Tensor::full({2, 3}, 1, DType::f64)) < 1e-5);
  CHECK(centre.shape() == Shape{1, 2, 3});
  CHECK(deviation.shape() == Shape{1, 2, 3});
  CHECK(largest_difference(layer.restore(y, {y, centre, deviation}), x) < 1e-12);
}

TEST_CASE("RevIN undoes what it did, whatever the level and the scale", "[layers]") {
  Generator g(2);
  RevIN layer({.channels = 3});
  with_affine(layer, g);
  const Tensor x = g.normal({10, 2, 3}, 0, 1, DType::f64);
  const RevIN::Normalized window = layer.normalize(x);
  CHECK(largest_difference(layer.restore(window.x, window), x) < 1e-8);
  // One element against the equation, in numbers.
  double centre = 0, variance = 0;
  const auto at = [](const Tensor& t, std::int64_t row) { return t.ptr<double>()[row * 6 + 4]; };
  for (std::int64_t t = 0; t < 10; ++t) centre += at(x, t) / 10;
  for (std::int64_t t = 0; t < 10; ++t) variance += std::pow(at(x, t) - centre, 2) / 10;
  const double weight = layer.affine_weight.value().ptr<double>()[1];
  const double bias = layer.affine_bias.value().ptr<double>()[1];
  CHECK(at(window.x, 3) ==
        Approx((at(x, 3) - centre) / std::sqrt(variance + 1e-5) * weight + bias).epsilon(1e-12));
  // A window at another level and scale looks the same, and its forecast is moved and scaled.
  const Tensor forecast = g.normal({4, 2, 3}, 0, 1, DType::f64);
  const RevIN::Normalized moved = layer.normalize(x * 100.0 + 9.0);
  CHECK(largest_difference(moved.x, window.x) < 1e-4);  // eps is added to either variance
  CHECK(largest_difference(layer.restore(forecast, moved),
                           layer.restore(forecast, window) * 100.0 + 9.0) < 1e-2);
  // A constant channel is neither divided by 0 nor lost.
  const RevIN::Normalized still = layer.normalize(Tensor::full({5, 1, 3}, 4, DType::f64));
  CHECK(largest_difference(layer.restore(still.x, still), Tensor::full({5, 1, 3}, 4, DType::f64)) <
        1e-8);
}

TEST_CASE("RevIN's gradients are central differences", "[layers]") {
  Generator g(3);
  RevIN layer({.channels = 3});
  with_affine(layer, g);
  // Through both ways and the statistics, by x and by the parameters; the model between is a power.
  const TensorFunction f = [&](std::span<const Tensor> in) -> std::vector<Tensor> {
    RevIN::Normalized window = layer.normalize(in[0]);
    return {layer.restore(pow(slice(window.x, 0, 2), 3.0), window)};
  };
  const std::vector<Tensor> at = {g.normal({5, 2, 3}, 1, 2, DType::f64)};
  const std::vector<std::size_t> wrt = {0};
  CHECK(gradient_error(f, at, wrt) < 1e-6);
  const auto loss = [&] { return sum(square(f(at)[0])); };
  {
    Tape tape;
    tape.backward(loss());
  }
  for (auto& [name, parameter] : layer.named_parameters())
    for (std::int64_t c = 0; c < 3; ++c) {
      CAPTURE(name, c);
      const double kept = parameter.value().ptr<double>()[c], step = 1e-5;
      double ends[2];
      for (const int side : {0, 1}) {
        parameter.mutable_value().mutable_ptr<double>()[c] = kept + (side == 0 ? -step : step);
        ends[side] = loss().item();
      }
      parameter.mutable_value().mutable_ptr<double>()[c] = kept;
      CHECK(parameter.grad().ptr<double>()[c] ==
            Approx((ends[1] - ends[0]) / (2 * step)).epsilon(1e-6));
    }
  CHECK_THROWS_AS(layer.normalize(g.normal({5, 2, 4}, 0, 1, DType::f64)), ShapeError);
  CHECK_THROWS_AS(RevIN({.channels = 0}), Error);
}
