// Elementwise functions of infinities, NaN and numbers too large for an exponential.

#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/cast.h>
#include <unroll/ops/reduce.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

TEST_CASE("elementwise functions of special values give what the mathematics library gives") {
  struct Function {
    const char* name;
    std::function<Tensor(const Tensor&)> ours;
    std::function<double(double)> exact;
  };
  const std::vector<Function> functions{
      {"exp", [](auto& x) { return exp(x); }, [](double v) { return std::exp(v); }},
      {"log", [](auto& x) { return log(x); }, [](double v) { return std::log(v); }},
      {"tanh", [](auto& x) { return tanh(x); }, [](double v) { return std::tanh(v); }},
      {"sigmoid", [](auto& x) { return sigmoid(x); },
       [](double v) { return 1 / (1 + std::exp(-v)); }},
      {"relu", [](auto& x) { return relu(x); }, [](double v) { return v < 0 ? 0 : v; }},
      {"softplus", [](auto& x) { return softplus(x); },
       [](double v) { return v > 50 ? v : std::log1p(std::exp(v)); }},
      {"sqrt", [](auto& x) { return sqrt(x); }, [](double v) { return std::sqrt(v); }},
      {"pow", [](auto& x) { return pow(x, -3); }, [](double v) { return 1 / (v * v * v); }},
      {"clamp", [](auto& x) { return clamp(x, -1, 1); },
       [](double v) { return v < -1  ? -1
                             : v > 1 ? 1
                                     : v; }},
      {"maximum", [](auto& x) { return maximum(x, Tensor::full({}, 1, x.dtype())); },
       [](double v) { return v < 1 ? 1 : v; }},
      {"minimum", [](auto& x) { return minimum(Tensor::full({}, 1, x.dtype()), x); },
       [](double v) { return v > 1 ? 1 : v; }},
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const Function& f : functions)
    for (const DType dtype : {DType::f32, DType::f64})
      for (const double v : {0.0,      1.0,       -1.0,
                             20.0,     -20.0,     88.0,
                             -88.0,    89.0,      100.0,
                             -100.0,   709.0,     -709.0,
                             710.0,    1000.0,    -1000.0,
                             1e30,     -1e30,     1e-30,
                             infinity, -infinity, std::numeric_limits<double>::quiet_NaN()})
        for (const std::int64_t n : {1, 19}) {  // the rest of a vector, and whole ones
          CAPTURE(f.name, to_string(dtype), v, n);
          const Tensor result = f.ours(Tensor::full({n}, v, dtype)).to(DType::f64);
          const double got = result.data<double>()[0];
          double exact = f.exact(v);
          if (dtype == DType::f32) exact = static_cast<double>(static_cast<float>(exact));
          if (std::isnan(exact)) {
            CHECK(std::isnan(got));
          } else if (std::isinf(exact)) {
            CHECK(got == exact);
          } else {  // what is smaller is flushed to 0
            CHECK(std::abs(got - exact) <= (dtype == DType::f32 ? 1e-5 : 1e-12) * std::abs(exact) +
                                               (dtype == DType::f32 ? 1.2e-38 : 1e-307));
          }
        }
}

TEST_CASE("gelu far from 0 is 0 below and x above, and so are its gradients 0 and 1") {
  const auto values = [](const Tensor& t) {
    const Tensor wide = cast(t, DType::f64);
    return std::vector<double>(wide.ptr<double>(), wide.ptr<double>() + wide.numel());
  };
  for (const DType dtype : {DType::f32, DType::f64}) {
    Tape tape;
    const Tensor numbers = Tensor::from({-1e30, -1e6, -1000.0, -10.0, 10.0, 1000.0, 1e30}, {7});
    const Tensor x = tape.watch(cast(numbers, dtype)), y = gelu(x);
    const std::vector<double> in = values(x), out = values(y),
                              slope = values(tape.gradient(sum(y), {x})[0]);
    for (std::size_t i = 0; i < in.size(); ++i) {
      CAPTURE(in[i], to_string(dtype));
      CHECK(out[i] == Approx(in[i] < 0 ? 0 : in[i]).margin(1e-20));
      CHECK(slope[i] == Approx(in[i] < 0 ? 0 : 1).margin(1e-18));
    }
  }
}

TEST_CASE("gelu in f32 is that of f64 to some roundings") {
  Tensor x = Tensor::empty({200001}, DType::f64);
  for (std::int64_t i = 0; i < x.numel(); ++i)
    x.mutable_ptr<double>()[i] = static_cast<double>(static_cast<float>(i - 100000) * 8e-5F);
  // erf is good to six units of its last place, times half of x.
  CHECK(difference(cast(gelu(cast(x, DType::f32)), DType::f64), gelu(x)) < 1.5e-6);
}

TEST_CASE("comparisons with infinity are masks of 0 and 1") {
  const double infinity = std::numeric_limits<double>::infinity();
  const unroll::Tensor x = unroll::Tensor::from({-infinity, 0.0, infinity}, {3});
  const unroll::Tensor mask = unroll::greater(x, 0.0);
  CHECK(mask.data<double>()[0] == 0);
  CHECK(mask.data<double>()[1] == 0);
  CHECK(mask.data<double>()[2] == 1);
}

TEST_CASE("tensors without elements broadcast to tensors without elements") {
  const std::vector<std::pair<Shape, Shape>> shapes{
      {{3, 0}, {3, 1}}, {{2, 0, 3}, {2, 1, 1}}, {{2, 3, 0}, {3, 1}}, {{0}, {1}}, {{0, 4}, {4}}};
  for (const auto& [a, b] : shapes) {
    Tape tape;
    const Tensor x = tape.watch(Tensor::zeros(a)), y = tape.watch(Tensor::zeros(b));
    for (const Tensor& z : {x + y, x * y, where(greater(x, y), x, y), exp(x) / (y + 1.0)}) {
      CHECK(z.shape() == a);
      const std::vector<Tensor> grads = tape.gradient(sum(z), {x, y});
      CHECK(grads[0].shape() == a);
      CHECK(grads[1].shape() == b);
    }
  }
}
