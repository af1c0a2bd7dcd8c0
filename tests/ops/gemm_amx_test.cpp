// f32 products on matrix tiles: their sums, bits and memory.

#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/matmul.h>

#include "../limit.h"
#include "amx_products.h"

using namespace unroll;
using namespace amx_products;

namespace {

struct Threads {
  explicit Threads(int count) { set_threads(count); }
  ~Threads() { set_threads(1); }
};

// All ways to read the operands and to begin the sum.
std::vector<Gemm> variants(Gemm g) {
  std::vector<Gemm> all;
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const int start : {0, 1, 2}) {
        g.transpose_a = ta, g.transpose_b = tb;
        g.accumulate = start == 1, g.bias = start == 2;
        all.push_back(g);
      }
  return all;
}

std::string name(const Gemm& g) {
  const auto number = [](std::int64_t i) { return std::to_string(i) + " "; };
  return "m n k " + number(g.m) + number(g.n) + number(g.k) + "ldb " + number(g.ldb) +
         (g.transpose_a ? "a turned " : "") + (g.transpose_b ? "b turned " : "") +
         (g.accumulate ? "accumulate" : "") + (g.bias ? "bias" : "");
}

// A sum of 2000 terms in f32, added one after the other, is off by some 20 roundings of its size;
// what is left out of the parts' products, by less than one.
constexpr double most_error = 20 * 0x1p-24;

// All variants, and each with rows of B that lie apart.
void check_sums(const Gemm& shape) {
  Product p = normal_product(shape);
  const Sums sums = by_hand(p);
  for (const Gemm& g : variants(shape))
    for (const std::int64_t apart : {0, 3}) {
      p.gemm = g;
      if (apart > 0) p.gemm.ldb = (g.transpose_b ? g.k : g.n) + apart;
      INFO(name(p.gemm));
      CHECK(errors(on_tiles(p), p, sums).greatest < most_error);
    }
}

// Large enough for two threads, the first one for three; rows and columns that no block divides.
const std::vector<Gemm> large{{.m = 130, .n = 2100, .k = 257}, {.m = 97, .n = 1000, .k = 260},
                              {.m = 80, .n = 1025, .k = 750},  {.m = 32, .n = 400, .k = 2100},
                              {.m = 700, .n = 100, .k = 360},  {.m = 16, .n = 801, .k = 2081}};

}  // namespace

TEST_CASE("products on tiles of all shapes and kinds agree with sums by hand") {
  if (!available()) return;
  for (const std::int64_t m : {1, 15, 16, 17, 31, 32, 33, 48, 64, 65, 129})
    for (const std::int64_t n : {1, 16, 32, 33, 63, 64, 65, 100})
      for (const std::int64_t k : {1, 31, 32, 33, 48}) check_sums({.m = m, .n = n, .k = k});
  // Depths and columns of several slices and blocks, where a few rows are cut otherwise.
  for (const std::int64_t m : {15, 16, 33, 48, 129})
    for (const std::int64_t k : {255, 256, 257, 700}) check_sums({.m = m, .n = 65, .k = k});
  for (const std::int64_t m : {1, 16, 17, 32, 33}) check_sums({.m = m, .n = 33, .k = 2081});
  for (const std::int64_t m : {17, 129})
    for (const std::int64_t n : {2047, 2048, 2049, 2113}) check_sums({.m = m, .n = n, .k = 47});
  check_sums({.m = 33, .n = 4100, .k = 270});
}

TEST_CASE("products on tiles write nothing but C, and of C their rows and columns only") {
  if (!available()) return;
  const Product p = normal_product({.m = 129, .n = 101, .k = 40});
  const Tensor whole = on_tiles(p);
  const Tensor a = laid_out(p.a, false), b = laid_out(p.b, false);
  const Gemm& g = p.gemm;
  Tensor work = tile_workspace(g);
  const auto inside = [](const detail::Span& span, std::int64_t i) {
    return i >= span.begin && i < span.end;
  };
  for (const detail::Span rows :
       {detail::Span{0, 32}, detail::Span{32, 45}, detail::Span{128, 129}, detail::Span{64, 64}})
    for (const detail::Span columns :
         {detail::Span{0, 101}, detail::Span{0, 64}, detail::Span{32, 96}, detail::Span{64, 101}}) {
      constexpr float untouched = 12345;
      Tensor c = Tensor::full({g.m + 2, g.n}, untouched);
      detail::gemm_amx(g, rows, columns, a.ptr<float>(), b.ptr<float>(), nullptr,
                       c.mutable_ptr<float>() + g.n, work.bytes());
      int wrong = 0;
      for (std::int64_t i = -1; i <= g.m; ++i)
        for (std::int64_t j = 0; j < g.n; ++j) {
          const bool written = inside(rows, i) && inside(columns, j);
          const float wanted = written ? whole.ptr<float>()[i * g.n + j] : untouched;
          wrong += c.ptr<float>()[(i + 1) * g.n + j] == wanted ? 0 : 1;
        }
      INFO("rows from " << rows.begin << " to " << rows.end << ", columns from " << columns.begin
                        << " to " << columns.end);
      CHECK(wrong == 0);
    }
}

TEST_CASE("rows and columns computed alone have the bits of the whole") {
  if (!available()) return;
  for (const Gemm& g : variants({.m = 170, .n = 97, .k = 300})) {
    const Product p = normal_product(g);
    const Tensor whole = on_tiles(p);
    for (const std::int64_t step : {32, 64, 96, 160}) {
      INFO(name(g) << ", at a time: " << step);
      CHECK(same_bits(on_tiles(p, step), whole));
      CHECK(same_bits(on_tiles(p, 0, step), whole));
      CHECK(same_bits(on_tiles(p, 64, step), whole));
    }
  }
}

TEST_CASE("turned operands and rows of B that lie apart give the bits of copies") {
  if (!available()) return;
  for (const std::int64_t m : {16, 100}) {
    Product p = normal_product({.m = m, .n = 97, .k = 300});
    const Tensor plain = on_tiles(p);
    for (const Gemm& g : variants(p.gemm)) {
      if (g.accumulate || g.bias) continue;
      for (const std::int64_t apart : {0, 5}) {
        p.gemm = g;
        if (apart > 0) p.gemm.ldb = (g.transpose_b ? g.k : g.n) + apart;
        INFO(name(p.gemm));
        CHECK(same_bits(on_tiles(p), plain));
      }
    }
  }
}

TEST_CASE("on tiles gemm(), packed products and any number of threads have the same bits") {
  if (!available()) return;
  for (const Gemm& shape : large) {
    Product p = normal_product(shape);
    for (const Gemm& g : variants(shape)) {
      REQUIRE(detail::is_amx(g));
      p.gemm = g;
      const Tensor plain = on_tiles(p);
      for (const int count : {1, 2, 3}) {
        const Threads threads(count);
        INFO(name(g) << ", threads: " << count);
        CHECK(same_bits(by_gemm(p), plain));
        CHECK(same_bits(by_packed(p), plain));
      }
    }
  }
}

TEST_CASE("a packed product on tiles takes other weights, and the first ones again") {
  if (!available()) return;
  const Gemm g{.transpose_b = true, .m = 90, .n = 200, .k = 300};
  REQUIRE(detail::is_amx(g));
  const Product first = normal_product(g), second = normal_product(g, 10);
  const Tensor b = laid_out(first.b, true), other = laid_out(second.b, true);
  PackedGemm<float> packed(g, b.ptr<float>());
  const auto run = [&] {
    Tensor c = Tensor::empty({g.m, g.n});
    packed.run(first.a.ptr<float>(), nullptr, c.mutable_ptr<float>());
    return c;
  };
  const Tensor expected = by_gemm(first);
  CHECK(same_bits(run(), expected));
  packed.pack(other.ptr<float>());
  CHECK(same_bits(run(), by_gemm({g, first.a, second.b})));
  packed.settle(b.ptr<float>());
  CHECK(same_bits(run(), expected));
}

TEST_CASE("products on tiles are nearly as exact as f32's own, those of normal numbers more so") {
  if (!available()) return;
  // From 10^-range to 10^range, evenly in the exponent, with signs.
  const auto wide = [](const Shape& shape, double range, std::uint64_t seed) {
    Generator generator(seed);
    const Tensor exponent = generator.uniform(shape, -range, range, DType::f64),
                 sign = generator.normal(shape, 0, 1, DType::f64);
    Tensor x = Tensor::empty(shape);
    for (std::int64_t i = 0; i < x.numel(); ++i)
      x.mutable_ptr<float>()[i] = static_cast<float>(
          std::copysign(std::pow(10.0, exponent.ptr<double>()[i]), sign.ptr<double>()[i]));
    return x;
  };
  // 1 and a little: its second and third part are all that differs.
  const auto nearly_one = [](const Shape& shape, std::uint64_t seed) {
    Tensor x = Generator(seed).uniform(shape, -1e-3, 1e-3, DType::f32);
    for (float& value : x.mutable_data<float>()) value += 1;
    return x;
  };
  const Gemm shapes[] = {{.m = 64, .n = 64, .k = 64},
                         {.m = 129, .n = 100, .k = 257},
                         {.m = 16, .n = 200, .k = 1000},
                         {.m = 40, .n = 64, .k = 3000}};
  for (const Gemm& g : shapes) {
    const Shape a{g.m, g.k}, b{g.k, g.n};
    // Where few terms make up a sum, f32 rounds it once for each, tiles for each product of parts
    // that is not too small to count.
    constexpr double many_terms = 1.5, few_terms = 4;
    struct Case {
      const char* name;
      Product product;
      double factor;
    };
    const Case cases[] = {{"normal", normal_product(g), many_terms},
                          {"nearly one", {g, nearly_one(a, 1), nearly_one(b, 2)}, many_terms},
                          {"wide", {g, wide(a, 18, 1), wide(b, 18, 2)}, few_terms},
                          {"wide, not fit", {g, wide(a, 20, 1), wide(b, 17, 2)}, few_terms},
                          {"one wide", {g, wide(a, 18, 1), normal(b, 2, DType::f32)}, few_terms}};
    for (const auto& [kind, p, factor] : cases) {
      const Sums sums = by_hand(p);
      const Errors tiles = errors(on_tiles(p), p, sums), own = errors(by_backend(p), p, sums);
      INFO(kind << ", " << name(g) << "\ngreatest and typical error: tiles " << tiles.greatest
                << " " << tiles.typical << ", f32 " << own.greatest << " " << own.typical);
      CHECK(tiles.greatest < factor * own.greatest);
      CHECK(tiles.typical < factor * own.typical);
      CHECK(tiles.greatest < most_error);
    }
  }
}

TEST_CASE("a product on tiles takes the memory that gemm_workspace() tells") {
  if (!available()) return;
  const auto peak = [](const auto& f) {
    const std::int64_t before = memory_stats().live;
    reset_peak_memory();
    f();
    return memory_stats().peak - before;
  };
  for (const Gemm& shape : large)
    for (const bool ta : {false, true})
      for (const int count : {1, 2, 3}) {
        Gemm g = shape;
        g.transpose_a = ta;
        const Threads threads(count);
        const Tensor a = Tensor::zeros({g.m, g.k}), b = Tensor::zeros({g.k, g.n});
        Tensor c = Tensor::zeros({g.m, g.n});
        const auto told = static_cast<std::int64_t>(gemm_workspace(g, DType::f32));
        INFO(name(g) << ", threads: " << count);
        CHECK(peak([&] {
                gemm(g, a.ptr<float>(), b.ptr<float>(), nullptr, c.mutable_ptr<float>());
              }) == peak([&] { Tensor::empty({told}, DType::u8); }));
      }
}

TEST_CASE("a product on tiles that finds no memory leaves C as it was") {
  if (!available()) return;
  for (const Gemm& shape : large) {
    Gemm g = shape;
    g.accumulate = true;
    const Product p = normal_product(g);
    for (const int count : {1, 2, 3}) {
      const Threads threads(count);
      Tensor c = p.start.clone();
      PackedGemm<float> packed(g, p.b.ptr<float>());
      release_cached_memory();
      const std::int64_t live = memory_stats().live;
      const auto told = static_cast<std::int64_t>(gemm_workspace(g, DType::f32));
      INFO(name(g) << ", threads: " << count);
      const auto product = [&] {
        gemm(g, p.a.ptr<float>(), p.b.ptr<float>(), nullptr, c.mutable_ptr<float>());
      };
      for (const std::int64_t room : {std::int64_t{1000}, told / 2 + 10'000, told - 1}) {
        const Limit limit(memory_stats().live + memory_stats().cached + room);
        CHECK_THROWS_AS(product(), MemoryError);
        CHECK(same_bits(c, p.start));
      }
      {
        const Limit limit(memory_stats().live + memory_stats().cached + 1000);
        CHECK_THROWS_AS(packed.run(p.a.ptr<float>(), nullptr, c.mutable_ptr<float>()), MemoryError);
        CHECK(same_bits(c, p.start));
      }
      CHECK(memory_stats().live == live);
      product();
      CHECK(same_bits(c, on_tiles(p)));
    }
  }
}

TEST_CASE("a layer whose products run on tiles has f64's values and gradients") {
  if (!available()) return;
  REQUIRE(detail::is_amx({.m = 96, .n = 96, .k = 96}));
  const auto run = [](DType dtype) {
    const auto numbers = [dtype](const Shape& shape, std::uint64_t seed) {
      return normal(shape, seed, DType::f32).to(dtype);
    };
    Tape tape;
    const Tensor x = tape.watch(numbers({96, 96}, 1)), w = tape.watch(numbers({96, 96}, 2)),
                 b = tape.watch(numbers({96}, 3));
    const Tensor y = linear(x, w, b), seed = numbers({96, 96}, 4), wrt[] = {x, w, b};
    std::vector<Tensor> results =
        tape.gradient(std::span(&y, 1), wrt, {.seeds = std::span(&seed, 1)});
    results.push_back(y);
    return results;
  };
  const std::vector<Tensor> f32 = run(DType::f32), f64 = run(DType::f64);
  for (std::size_t i = 0; i < f32.size(); ++i) {
    CAPTURE(i);
    // 96 terms of size 1, some up to 10, and a few roundings of their sum, which is about 8.
    CHECK(difference(f32[i], f64[i]) < 96 * 0x1p-22);
    CHECK(difference(f32[i], f64[i]) > 0);
  }
}
