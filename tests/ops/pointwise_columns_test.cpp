// Columns of a tensor that pointwise() reads in place equal slices that are copied, one wide too.

#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/reduce.h>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

TEST_CASE("columns in place equal slices, whatever their width", "[ops]") {
  const auto f = [](const auto& a, const auto& b, const auto& c, const Tensor& by) {
    return pointwise([](auto a, auto b, auto c, auto y) { return a * tanh(b) + sigmoid(c) * y; }, a,
                     b, c, by);
  };
  for (const std::int64_t width : {1, 2, 7})
    for (const Shape& by : {Shape{5, 1, 1}, Shape{4, 1}, Shape{1}, Shape{5, 4, width}}) {
      CAPTURE(width, to_string(by));
      const Tensor value = normal({5, 4, 3 * width}, 1), factor = normal(by, 2);
      const auto run = [&](bool in_place) {
        const Parameter x(value.clone()), y(factor.clone());
        Tape tape;
        const auto part = [&](int i) { return slice(Tensor(x), -1, i * width, (i + 1) * width); };
        Tensor out;
        if (in_place) {
          const auto [a, b, c] = chunk<3>(Tensor(x));
          out = f(a, b, c, Tensor(y));
        } else {
          out = f(part(0), part(1), part(2), Tensor(y));
        }
        tape.backward(sum(out * out));
        return std::vector<Tensor>{out.clone(), x.grad().clone(), y.grad().clone()};
      };
      const auto fast = run(true), plain = run(false);
      for (std::size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], plain[i]) < 1e-12);
    }
}
