#include <unroll/graph/threads.h>
#include <unroll/ops/gemm.h>
#include <unroll/ops/simd.h>

#include <algorithm>

namespace unroll {
namespace {

// One row times a transposed matrix, as streaming meets it: a dot product for every row of B, read
// once. oneDNN spends longer on packing B than on the product.
template <class T>
UNROLL_FLATTEN void row_times_transposed(const Gemm& g, const T* a, const T* b, const T* bias,
                                         T* c) {
  using L = simd::Lanes<T>;
  namespace hn = simd::hn;
  constexpr std::int64_t lanes = L::count, together = 4;
  const auto rest = static_cast<std::size_t>(g.k % lanes);
  for (std::int64_t j = 0; j < g.n; j += together) {
    const std::int64_t rows = std::min(together, g.n - j);
    L sums[together];
    const auto add = [&](std::int64_t i, auto load) {
      const L x = load(a + i);
      for (std::int64_t r = 0; r < together; ++r) {
        const std::int64_t row = r < rows ? r : rows - 1;  // a row twice, rather than a branch
        sums[r] = hn::MulAdd(x.v, load(b + (j + row) * g.k + i).v, sums[r].v);
      }
    };
    std::int64_t i = 0;
    for (; i + lanes <= g.k; i += lanes) add(i, [](const T* p) { return L::load(p); });
    if (rest > 0) add(i, [rest](const T* p) { return L::load_first(p, rest); });
    for (std::int64_t r = 0; r < rows; ++r) {
      const T sum = hn::GetLane(hn::SumOfLanes(simd::Tag<T>(), sums[r].v));
      const T start = g.accumulate ? c[j + r] : (g.bias ? bias[j + r] : T(0));
      c[j + r] = start + sum;
    }
  }
}

void run_piece(const Gemm& g, const float* a, const float* b, const float* bias, float* c) {
  if (g.m == 1 && g.batch == 1 && g.transpose_b && !g.transpose_a)
    return row_times_transposed(g, a, b, bias, c);
#ifdef UNROLL_ONEDNN
  detail::gemm_onednn(g, a, b, bias, c);
#else
  detail::gemm_blas(g, a, b, bias, c);
#endif
}

void run_piece(const Gemm& g, const double* a, const double* b, const double* bias, double* c) {
  detail::gemm_blas(g, a, b, bias, c);
}

// A piece is worth a thread from about 150 us on; more than 16 are not needed to fill one.
constexpr double flops_a_piece = 32e6;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <class T>
void cut_and_run(const Gemm& g, const T* a, const T* b, const T* bias, T* c) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return;
  if (g.k == 0) {
    for (std::int64_t i = 0; i < g.batch && !g.accumulate; ++i)
      for (std::int64_t j = 0; j < g.m * g.n; ++j)
        c[i * g.step_c + j] = g.bias ? bias[j % g.n] : T(0);
    return;
  }
  const double work = 2.0 * static_cast<double>(g.m * g.n * g.batch) * static_cast<double>(g.k);
  const auto pieces =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(work / flops_a_piece), 1, 16);
  if (pieces == 1) return run_piece(g, a, b, bias, c);
  if (g.batch > 1) {
    const std::int64_t step = (g.batch + pieces - 1) / pieces;
    parallel_for(g.batch, step, work, [&](std::int64_t begin, std::int64_t end) {
      Gemm piece = g;
      piece.batch = end - begin;
      run_piece(piece, a + begin * g.step_a, b + begin * g.step_b, bias, c + begin * g.step_c);
    });
    return;
  }
  // Along the rows of the result: a piece of them is contiguous in C. Each piece reads all of B, so
  // that it must not be too thin.
  const std::int64_t step = std::max<std::int64_t>(64, round_up((g.m + pieces - 1) / pieces, 32));
  const std::int64_t row_length = g.transpose_a ? g.m : g.k;
  parallel_for(g.m, step, work, [&](std::int64_t begin, std::int64_t end) {
    Gemm piece = g;
    piece.m = end - begin;
    piece.lda = row_length;
    run_piece(piece, a + (g.transpose_a ? begin : begin * g.k), b, bias, c + begin * g.n);
  });
}

}  // namespace

void gemm(const Gemm& g, const float* a, const float* b, const float* bias, float* c) {
  cut_and_run(g, a, b, bias, c);
}

void gemm(const Gemm& g, const double* a, const double* b, const double* bias, double* c) {
  cut_and_run(g, a, b, bias, c);
}

}  // namespace unroll
