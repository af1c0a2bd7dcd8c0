// Whole tensors of one shape take a short way through pointwise(): its twin is the general loop,
// which the same numbers take where a shape has to be broadcast.

#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/reduce.h>

#include <tuple>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

TEST_CASE("whole tensors give the bits of the general loop, forward and back", "[ops]") {
  const auto f = [](auto x, auto y) { return std::tuple{x * tanh(y), x - y * y}; };
  for (const std::int64_t n : {0, 1, 7, 16, 17, 100, 4095, 4096, 4097, 9000})
    for (const DType dtype : {DType::f32, DType::f64})
      for (const bool both : {true, false}) {
        CAPTURE(n, to_string(dtype), both);
        const Tensor value = normal({n}, 1).to(dtype), factor = normal({n}, 2).to(dtype);
        const auto run = [&](bool whole) {
          const Parameter x(value.clone()), y(factor.clone());
          Tape tape;
          const Tensor other = both ? Tensor(y) : factor;
          const auto [p, q] =
              pointwise(f, Tensor(x), whole ? other : reshape(other, {1, other.numel()}));
          tape.backward(sum(p) + sum(q * q));
          std::vector<Tensor> all = {reshape(p, {n}), reshape(q, {n}), x.grad()};
          if (both) all.push_back(y.grad());
          return all;
        };
        const auto fast = run(true), general = run(false);
        for (std::size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], general[i]) == 0);
      }
}

TEST_CASE("a recorded gradient of which a part is nobody's can be differentiated", "[ops]") {
  const Tensor y = normal({5}, 2);
  Tape tape;
  const Tensor x = tape.watch(normal({5}, 1));
  const Tensor z = sum(pointwise([](auto x, auto y) { return x * x * x * y; }, x, y));
  const Tensor first = tape.gradient({&z, 1}, {&x, 1}, {.create_graph = true})[0];
  CHECK(difference(first, 3.0 * x * x * y) < 1e-12);
  const Tensor second = tape.gradient(sum(first), {x})[0];
  CHECK(difference(second, 6.0 * x * y) < 1e-12);
}

TEST_CASE("dtypes that pointwise does not know are refused whatever the shapes", "[ops]") {
  const auto twice = [](auto x) { return x + x; };
  CHECK_THROWS_AS(pointwise(twice, Tensor::zeros({3}, DType::i32)), Error);
  CHECK_THROWS_AS(pointwise(twice, Tensor::zeros({5000}, DType::i64)), Error);
}
