// Products on matrix tiles of what their parts cannot hold: infinities, NaN, the greatest numbers
// and the least.

#include <unroll/ops/index.h>

#include <bit>

#include "amx_products.h"

using namespace unroll;
using namespace amx_products;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float greatest = std::numeric_limits<float>::max();

// Element by element in f32, in the order of k.
Tensor plain_loop(const Product& p) {
  const Gemm& g = p.gemm;
  Tensor c = Tensor::empty({g.m, g.n});
  for (std::int64_t i = 0; i < g.m; ++i) {
    float* const sums = c.mutable_ptr<float>() + i * g.n;
    for (std::int64_t j = 0; j < g.n; ++j)
      sums[j] = g.accumulate ? p.start.ptr<float>()[i * g.n + j]
                             : (g.bias ? p.bias.ptr<float>()[j] : 0.0F);
    for (std::int64_t k = 0; k < g.k; ++k) {
      const float x = p.a.ptr<float>()[i * g.k + k];
      for (std::int64_t j = 0; j < g.n; ++j) sums[j] += x * p.b.ptr<float>()[k * g.n + j];
    }
  }
  return c;
}

// How many elements are finite here where they are not there.
int finite_only_here(const Tensor& here, const Tensor& there) {
  int count = 0;
  for (std::int64_t i = 0; i < here.numel(); ++i)
    count += std::isfinite(here.ptr<float>()[i]) && !std::isfinite(there.ptr<float>()[i]) ? 1 : 0;
  return count;
}

// The greatest error of the elements that are finite in both.
double finite_error(const Tensor& c, const Tensor& loop, const Product& p) {
  const Sums sums = by_hand(p);
  double most = 0;
  for (std::size_t i = 0; i < sums.value.size(); ++i) {
    const float is = c.ptr<float>()[i];
    if (!std::isfinite(is) || !std::isfinite(loop.ptr<float>()[i])) continue;
    const double start = p.gemm.accumulate ? p.start.ptr<float>()[i] : 0.0;
    most =
        std::max(most, std::abs(is - (sums.value[i] + start)) / (sums.size[i] + std::abs(start)));
  }
  return most;
}

void set(Tensor& x, std::int64_t row, std::int64_t column, float value) {
  x.mutable_ptr<float>()[row * x.size(1) + column] = value;
}

// Elements of C whose row of A and column of B are the same in p and q: how many have other bits.
int changed_elsewhere(const Product& p, const Tensor& with, const Product& q,
                      const Tensor& without) {
  const Gemm& g = p.gemm;
  std::vector<bool> rows(static_cast<std::size_t>(g.m)), columns(static_cast<std::size_t>(g.n));
  const auto differ = [](const Tensor& x, const Tensor& y, std::int64_t i) {
    return std::bit_cast<std::uint32_t>(x.ptr<float>()[i]) !=
           std::bit_cast<std::uint32_t>(y.ptr<float>()[i]);
  };
  for (std::int64_t i = 0; i < p.a.numel(); ++i)
    if (differ(p.a, q.a, i)) rows[static_cast<std::size_t>(i / g.k)] = true;
  for (std::int64_t i = 0; i < p.b.numel(); ++i)
    if (differ(p.b, q.b, i)) columns[static_cast<std::size_t>(i % g.n)] = true;
  int count = 0;
  for (std::int64_t i = 0; i < with.numel(); ++i)
    if (!rows[static_cast<std::size_t>(i / g.n)] && !columns[static_cast<std::size_t>(i % g.n)] &&
        differ(with, without, i))
      ++count;
  return count;
}

struct Special {
  const char* name;
  float value;
};
const Special specials[] = {{"infinite", inf},
                            {"minus infinite", -inf},
                            {"NaN", std::numeric_limits<float>::quiet_NaN()},
                            {"NaN in the lowest bit", std::bit_cast<float>(0x7F800001U)},
                            {"NaN of all bits", std::bit_cast<float>(0xFFFFFFFFU)},
                            {"the greatest", greatest},
                            {"the least", -greatest},
                            {"beyond bf16", 3.4e38F},
                            {"infinite as bf16", std::bit_cast<float>(0x7F7F8000U)}};

// Rows, columns and depths on both sides of panels', tiles' and slices' edges.
const Gemm shapes[] = {{.m = 65, .n = 70, .k = 260},
                       {.m = 16, .n = 97, .k = 70},
                       {.m = 48, .n = 64, .k = 33},
                       {.m = 7, .n = 40, .k = 2081}};

}  // namespace

TEST_CASE("on tiles what is not finite, or not as bf16, stays in its row and column") {
  if (!available()) return;
  for (const Gemm& shape : shapes) {
    Product fit = normal_product(shape);
    for (const int flags : {0, 1, 2, 3}) {
      Gemm& g = fit.gemm;
      g.transpose_a = (flags & 1) != 0;
      g.transpose_b = (flags & 2) != 0;
      g.accumulate = flags == 3;
      for (const auto& [name, value] : specials)
        for (const int where : {1, 2, 3})  // in A, in B, in both
          for (const bool at_end : {false, true}) {
            const std::int64_t depth = at_end ? g.k - 1 : g.k / 2;
            Product ordinary = {g, fit.a, fit.b.clone(), fit.bias, fit.start};
            set(ordinary.b, depth, 5, 0);  // times 0 an infinity is NaN, and others nothing
            Product p = {g, fit.a.clone(), ordinary.b.clone(), fit.bias, fit.start};
            if ((where & 1) != 0) set(p.a, at_end ? g.m - 1 : 0, depth, value);
            if ((where & 2) != 0) set(p.b, at_end ? 3 : depth, at_end ? g.n - 1 : 31, value);
            INFO(name << " in " << where << ", m n k " << g.m << " " << g.n << " " << g.k
                      << ", flags " << flags << ", at end " << at_end);
            const Tensor c = on_tiles(p), loop = plain_loop(p);
            CHECK(finite_only_here(c, loop) == 0);
            CHECK(finite_error(c, loop, p) < 4e-6);
            CHECK(changed_elsewhere(p, c, ordinary, on_tiles(ordinary)) == 0);
          }
    }
  }
}

TEST_CASE("on tiles a number too large changes no bits with the way that a product is cut") {
  if (!available()) return;
  // The last rows are few enough for another kind of block.
  for (const std::int64_t m : {80, 97, 112, 140})
    for (const float value : {1e20F, 1e30F, inf}) {
      Product p = normal_product({.m = m, .n = 500, .k = 300});
      set(p.a, 3, 2, value);
      set(p.b, 290, 40, value);
      CAPTURE(m, value);
      REQUIRE(detail::is_amx(p.gemm));
      const Tensor whole = on_tiles(p);
      for (const std::int64_t rows : {32, 64, 96}) CHECK(same_bits(on_tiles(p, rows), whole));
      CHECK(same_bits(by_packed(p), whole));
      // Rows that change places keep their bits.
      Product turned = p;
      turned.a = concat({p.a.rows(50, m), p.a.rows(0, 50)}, 0);
      CHECK(same_bits(on_tiles(turned), concat({whole.rows(50, m), whole.rows(0, 50)}, 0)));
    }
}

TEST_CASE("on tiles a product that is too large for f32 is not finite") {
  if (!available()) return;
  for (const Gemm& shape : shapes)
    for (const float size : {1e19F, 1e20F, 1e25F, 1e30F, 1e38F}) {
      // All of one sign: a sum of what is infinite on the way is infinite.
      Product p = normal_product(shape);
      for (float& x : p.a.mutable_data<float>()) x = std::abs(x) * size;
      for (float& x : p.b.mutable_data<float>()) x = -(std::abs(x) + 0.1F) * size;
      CAPTURE(shape.m, shape.n, shape.k, size);
      const Tensor c = on_tiles(p), loop = plain_loop(p);
      CHECK(finite_only_here(c, loop) == 0);
      CHECK(finite_only_here(loop, c) == 0);
      CHECK(finite_error(c, loop, p) < 4e-6);
    }
}

TEST_CASE("on tiles a part below f32's least normal number is 0") {
  if (!available()) return;
  for (const Gemm& g : shapes)
    for (const float size : {1e-31F, 1e-33F, 1e-36F, 1e-38F, 1e-42F})
      for (const bool in_a : {false, true})
        for (const bool all : {false, true}) {
          Product p = normal_product(g);
          Tensor& tiny = in_a ? p.a : p.b;
          for (std::int64_t i = 0; i < tiny.numel(); i += all ? 1 : 37)
            tiny.mutable_ptr<float>()[i] *= size;
          CAPTURE(g.m, g.n, g.k, size, in_a, all);
          const Tensor c = on_tiles(p);
          const Sums sums = by_hand(p);
          double most = 0;  // of what is beyond the ordinary error
          for (std::size_t i = 0; i < sums.value.size(); ++i)
            most =
                std::max(most, std::abs(c.ptr<float>()[i] - sums.value[i]) - 4e-6 * sums.size[i]);
          // Of each term less than 2^-126 times the other factor, which is about 1.
          CHECK(most < 1e-37 + static_cast<double>(g.k) * 0x1p-125);
        }
}

TEST_CASE("panels on tiles may be cut in depth, where a step of theirs ends") {
  if (!available()) return;
  const std::int64_t k = 200;
  for (const std::int64_t m : {16, 32}) {  // each kind of block
    const Product p = normal_product({.m = m, .n = 64, .k = k});
    const auto product = [&](std::initializer_list<std::int64_t> cuts) {
      using namespace detail::amx;
      const auto bytes = static_cast<std::int64_t>(panel_bytes(k, 3));
      Tensor a = Tensor::empty({bytes}, DType::u8), b = Tensor::empty({2 * bytes}, DType::u8);
      Tensor c = Tensor::empty({m, 64});
      const Tiles tiles;
      std::int64_t begin = 0;
      for (const std::int64_t end : cuts) {
        const std::int64_t depth = end - begin;
        pack_left(Rows::along(p.a.ptr<float>() + begin, k), m, depth, 3, a.bytes());
        pack_right(Rows::across(p.b.ptr<float>() + begin * 64, 64), 64, depth, 3, b.bytes());
        multiply({.rows = m,
                  .columns = 64,
                  .depth = depth,
                  .a = a.bytes(),
                  .b = b.bytes(),
                  .add = begin > 0,
                  .c = c.mutable_ptr<float>(),
                  .c_step = 64});
        begin = end;
      }
      return c;
    };
    const Tensor whole = product({k});
    CHECK(errors(whole, p, by_hand(p)).greatest < 4e-6);
    CHECK(same_bits(product({32, k}), whole));
    CHECK(same_bits(product({64, 160, k}), whole));
    CHECK(!same_bits(product({40, k}), whole));
  }
}
