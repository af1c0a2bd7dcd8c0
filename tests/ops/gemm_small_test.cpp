// Small products with a packed right operand: done in registers, without the backend.

#include <unroll/ops/gemm.h>
#include <unroll/ops/gemm_small.h>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

// The product, element by element in double.
Tensor by_hand(const Gemm& g, const Tensor& a, const Tensor& b, const Tensor& bias,
               const Tensor& start) {
  Tensor c = Tensor::empty({g.m, g.n});
  for (std::int64_t i = 0; i < g.m; ++i)
    for (std::int64_t j = 0; j < g.n; ++j) {
      double sum = g.accumulate ? start.ptr<float>()[i * g.n + j] : 0;
      if (g.bias) sum += bias.ptr<float>()[j];
      for (std::int64_t k = 0; k < g.k; ++k)
        sum += static_cast<double>(a.ptr<float>()[i * g.k + k]) *
               static_cast<double>(g.transpose_b ? b.ptr<float>()[j * g.k + k]
                                                 : b.ptr<float>()[k * g.n + j]);
      c.mutable_ptr<float>()[i * g.n + j] = static_cast<float>(sum);
    }
  return c;
}

}  // namespace

TEST_CASE("packed products of all small shapes agree with sums by hand") {
  int small = 0;
  for (const std::int64_t m : {1, 2, 3, 7, 13, 33})
    for (const std::int64_t n : {16, 48, 80, 96, 1, 30, 40, 65})
      for (const std::int64_t k : {1, 5, 32, 67})
        for (const bool transposed : {false, true})
          for (const int extra : {0, 1, 2}) {
            const Gemm g{.transpose_b = transposed,
                         .accumulate = extra == 1,
                         .bias = extra == 2,
                         .m = m,
                         .n = n,
                         .k = k};
            CAPTURE(m, n, k, transposed, extra);
            small += detail::is_small(g) ? 1 : 0;
            const Tensor a = normal({m, k}, 1, DType::f32), b = normal({n, k}, 2, DType::f32),
                         bias = normal({n}, 3, DType::f32), start = normal({m, n}, 4, DType::f32);
            PackedGemm<float> product(g, b.ptr<float>());
            Tensor c = start.clone();
            product.run(a.ptr<float>(), g.bias ? bias.ptr<float>() : nullptr,
                        c.mutable_ptr<float>());
            CHECK(difference(c, by_hand(g, a, b, bias, start)) < 1e-4);
            const Tensor other = normal({n, k}, 5, DType::f32);
            product.pack(other.ptr<float>());
            c = start.clone();
            product.run(a.ptr<float>(), g.bias ? bias.ptr<float>() : nullptr,
                        c.mutable_ptr<float>());
            CHECK(difference(c, by_hand(g, a, other, bias, start)) < 1e-4);
          }
  CHECK(small > 5 * 8 * 4);  // a single row goes another way
}

TEST_CASE("a row of a small product does not depend on the rows beside it") {
  const Tensor a = normal({13, 40}, 1, DType::f32), b = normal({64, 40}, 2, DType::f32);
  Gemm g{.transpose_b = true, .m = 13, .n = 64, .k = 40};
  REQUIRE(detail::is_small(g));
  Tensor panels = Tensor::empty({detail::small_panel_size(g)});
  detail::pack_small(g, b.ptr<float>(), panels.mutable_ptr<float>());
  const auto product = [&](std::int64_t first, std::int64_t rows) {
    g.m = rows;
    Tensor c = Tensor::empty({rows, 64});
    detail::gemm_small(g, a.ptr<float>() + first * 40, panels.ptr<float>(), nullptr,
                       c.mutable_ptr<float>());
    return c;
  };
  const Tensor whole = product(0, 13);
  CHECK(same_bits(product(4, 5), whole.rows(4, 9)));
}
