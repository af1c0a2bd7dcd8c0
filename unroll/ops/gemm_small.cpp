#include <unroll/ops/gemm_small.h>
#include <unroll/ops/tiles.h>

namespace unroll::detail {
namespace {

constexpr std::int64_t lanes = simd::Lanes<float>::count;
// 512-bit vectors come with 32 registers, narrower ones perhaps with 16.
constexpr std::int64_t most = sizeof(simd::Lanes<float>) >= 64 ? 4 : 2;

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
  return !g.transpose_a && !g.bf16 && g.batch == 1 && g.m > 1 && g.n % lanes == 0 &&
         g.m * g.n * g.k <= limit;
}

std::int64_t small_panel_size(const Gemm& g) { return g.n * g.k; }

void pack_small(const Gemm& g, const float* b, float* panels) {
  const std::int64_t ldb = g.ldb != 0 ? g.ldb : (g.transpose_b ? g.k : g.n);
  over_panels(g, [&](std::int64_t column, std::int64_t columns) {
    float* const to = panels + column * g.k;
    if (g.transpose_b) {
      turn<float>(columns, g.k, b + column * ldb, ldb, to, columns,
                  [](const auto&, auto x) { return x; });
    } else {
      for (std::int64_t k = 0; k < g.k; ++k)
        std::copy_n(b + k * ldb + column, columns, to + k * columns);
    }
  });
}

void gemm_small(const Gemm& g, const float* a, const float* panels, const float* bias, float* c) {
  if (g.bias)
    for (std::int64_t i = 0; i < g.m; ++i) std::copy_n(bias, g.n, c + i * g.n);
  over_panels(g, [&](std::int64_t column, std::int64_t columns) {
    multiply<float>({.rows = g.m,
                     .depth = g.k,
                     .vectors = columns / lanes,
                     .a = a,
                     .a_step = g.k,
                     .b = panels + column * g.k,
                     .b_step = columns,
                     .c = c + column,
                     .c_step = g.n,
                     .add_last = g.accumulate || g.bias});
  });
}

}  // namespace unroll::detail
