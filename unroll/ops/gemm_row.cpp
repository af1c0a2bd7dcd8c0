#include <unroll/ops/gemm_row.h>
#include <unroll/ops/tiles.h>

namespace unroll::detail {
namespace {

namespace hn = simd::hn;

template <class T>
constexpr std::int64_t lanes_of = simd::Lanes<T>::count;
// Two additions a cycle, each of which takes four: so many sums keep the units busy.
constexpr std::int64_t most = 8;
// Beyond what a second-level cache keeps from step to step, elements are asked for ahead of time.
constexpr std::int64_t far = std::int64_t{1} << 18, ahead_of_far = 1024;

// f(first column, vectors) for each panel.
template <class T, class F>
void over_panels(const Gemm& g, bool backwards, const F& f) {
  constexpr std::int64_t wide = most * lanes_of<T>;
  const std::int64_t panels = (g.n + wide - 1) / wide;
  for (std::int64_t i = 0; i < panels; ++i) {
    const std::int64_t column = (backwards ? panels - 1 - i : i) * wide;
    f(column, std::min(most, (g.n - column + lanes_of<T> - 1) / lanes_of<T>));
  }
}

// A panel of `Vectors` vectors. Where these are few, several rows of B have sums of their own.
template <class T, int Vectors>
[[gnu::noinline]] UNROLL_FLATTEN void row_panel(std::int64_t depth, const T* a, const T* b,
                                                const T* start, T* c, std::int64_t columns,
                                                std::int64_t ahead) {
  constexpr std::int64_t lanes = lanes_of<T>;
  constexpr std::int64_t chains = Vectors > 4 ? 1 : Vectors > 2 ? 2 : Vectors > 1 ? 4 : 8;
  const simd::Tag<T> d;
  hn::Vec<simd::Tag<T>> sum[chains][Vectors];
  for (auto& chain : sum)
    for (auto& one : chain) one = hn::Zero(d);
  std::int64_t k = 0;
  for (; k + chains <= depth; k += chains)
    for (std::int64_t s = 0; s < chains; ++s, b += Vectors * lanes) {
      const auto left = hn::Set(d, a[k + s]);
      for (int v = 0; v < Vectors; ++v) __builtin_prefetch(b + ahead + v * lanes);
      for (int v = 0; v < Vectors; ++v)
        sum[s][v] = hn::MulAdd(left, hn::LoadU(d, b + v * lanes), sum[s][v]);
    }
  for (; k < depth; ++k, b += Vectors * lanes)
    for (int v = 0; v < Vectors; ++v)
      sum[0][v] = hn::MulAdd(hn::Set(d, a[k]), hn::LoadU(d, b + v * lanes), sum[0][v]);
  for (int v = 0; v < Vectors; ++v) {
    for (std::int64_t s = 1; s < chains; ++s) sum[0][v] = hn::Add(sum[0][v], sum[s][v]);
    simd::Lanes<T> total = sum[0][v];
    if (const std::int64_t rest = columns - v * lanes; rest >= lanes) {
      if (start != nullptr) total = total + simd::Lanes<T>::load(start + v * lanes);
      total.store(c + v * lanes);
    } else {
      const auto count = static_cast<std::size_t>(rest);
      if (start != nullptr) total = total + simd::Lanes<T>::load_first(start + v * lanes, count);
      total.store_first(c + v * lanes, count);
    }
  }
}

template <class T>
void run_panel(std::int64_t vectors, std::int64_t depth, const T* a, const T* b, const T* start,
               T* c, std::int64_t columns, std::int64_t ahead) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    ((vectors == I + 1 ? row_panel<T, I + 1>(depth, a, b, start, c, columns, ahead) : void()), ...);
  }
  (std::make_integer_sequence<int, most>());
}

}  // namespace

bool is_row(const Gemm& g) { return g.m == 1 && g.batch == 1 && !g.transpose_a && !g.bf16; }

template <class T>
std::int64_t row_panel_size(const Gemm& g) {
  return (g.n + lanes_of<T> - 1) / lanes_of<T> * lanes_of<T> * g.k;
}

template <class T>
void pack_row(const Gemm& g, const T* b, T* panels) {
  const std::int64_t ldb = g.ldb != 0 ? g.ldb : (g.transpose_b ? g.k : g.n);
  over_panels<T>(g, false, [&](std::int64_t column, std::int64_t vectors) {
    const std::int64_t wide = vectors * lanes_of<T>, columns = std::min(wide, g.n - column);
    T* const to = panels + column * g.k;
    if (columns < wide) std::fill_n(to, wide * g.k, T(0));
    if (g.transpose_b) {
      turn<T>(columns, g.k, b + column * ldb, ldb, to, wide, [](const auto&, auto x) { return x; });
    } else {
      for (std::int64_t k = 0; k < g.k; ++k)
        std::copy_n(b + k * ldb + column, columns, to + k * wide);
    }
  });
}

template <class T>
void gemm_row(const Gemm& g, const T* a, const T* panels, const T* bias, T* c, bool backwards) {
  const T* const start = g.accumulate ? c : bias;
  over_panels<T>(g, backwards, [&](std::int64_t column, std::int64_t vectors) {
    run_panel(vectors, g.k, a, panels + column * g.k, start == nullptr ? nullptr : start + column,
              c + column, g.n - column, g.n * g.k >= far ? ahead_of_far : 0);
  });
}

template std::int64_t row_panel_size<float>(const Gemm&);
template std::int64_t row_panel_size<double>(const Gemm&);
template void pack_row(const Gemm&, const float*, float*);
template void pack_row(const Gemm&, const double*, double*);
template void gemm_row(const Gemm&, const float*, const float*, const float*, float*, bool);
template void gemm_row(const Gemm&, const double*, const double*, const double*, double*, bool);

}  // namespace unroll::detail
