#include <unroll/ops/gemm_small.h>
#include <unroll/ops/tiles.h>

#include <algorithm>
#include <array>

namespace unroll::detail {
namespace {

constexpr std::int64_t lanes = simd::Lanes<float>::count;
// 512-bit vectors come with 32 registers, narrower ones perhaps with 16.
constexpr std::int64_t most = sizeof(simd::Lanes<float>) >= 64 ? 4 : 2;

std::int64_t whole_vectors(std::int64_t columns) { return (columns + lanes - 1) / lanes * lanes; }

// f(column, columns) for each panel.
template <class F>
void over_panels(const Gemm& g, const F& f) {
  for (std::int64_t column = 0; column < g.n; column += most * lanes)
    f(column, std::min(most * lanes, g.n - column));
}

}  // namespace

bool is_small(const Gemm& g) {
  // Up to here registers are filled faster than the backend is called; beyond, it blocks for the
  // caches too.
  constexpr std::int64_t limit = std::int64_t{1} << 20;
  return !g.transpose_a && !g.bf16 && g.batch == 1 && g.m > 1 &&
         g.m * whole_vectors(g.n) * g.k <= limit;
}

std::int64_t small_panel_size(const Gemm& g) { return whole_vectors(g.n) * g.k; }

void pack_small(const Gemm& g, const float* b, float* panels) {
  const std::int64_t ldb = g.ldb != 0 ? g.ldb : (g.transpose_b ? g.k : g.n);
  over_panels(g, [&](std::int64_t column, std::int64_t columns) {
    const std::int64_t wide = whole_vectors(columns);
    float* const to = panels + column * g.k;
    if (columns < wide) std::fill_n(to, wide * g.k, 0.0F);
    if (g.transpose_b) {
      turn<float>(columns, g.k, b + column * ldb, ldb, to, wide,
                  [](const auto&, auto x) { return x; });
    } else {
      for (std::int64_t k = 0; k < g.k; ++k)
        std::copy_n(b + k * ldb + column, columns, to + k * wide);
    }
  });
}

void gemm_small(const Gemm& g, const float* a, const float* panels, const float* bias, float* c) {
  if (g.bias)
    for (std::int64_t i = 0; i < g.m; ++i) std::copy_n(bias, g.n, c + i * g.n);
  over_panels(g, [&](std::int64_t column, std::int64_t columns) {
    const std::int64_t wide = whole_vectors(columns);
    const auto rows = [&](std::int64_t first, std::int64_t count, float* to, std::int64_t step) {
      multiply<float>({.rows = count,
                       .depth = g.k,
                       .vectors = wide / lanes,
                       .a = a + first * g.k,
                       .a_step = g.k,
                       .b = panels + column * g.k,
                       .b_step = wide,
                       .c = to,
                       .c_step = step,
                       .add_last = g.accumulate || g.bias});
    };
    float* const to = c + column;
    if (columns == wide) return rows(0, g.m, to, g.n);
    // Not whole vectors: by way of rows that are.
    constexpr std::int64_t together = 16;
    std::array<float, together * most * lanes> own{};
    for (std::int64_t first = 0; first < g.m; first += together) {
      const std::int64_t count = std::min(together, g.m - first);
      for (std::int64_t i = 0; i < count && (g.accumulate || g.bias); ++i)
        std::copy_n(to + (first + i) * g.n, columns, own.data() + i * wide);
      rows(first, count, own.data(), wide);
      for (std::int64_t i = 0; i < count; ++i)
        std::copy_n(own.data() + i * wide, columns, to + (first + i) * g.n);
    }
  });
}

}  // namespace unroll::detail
