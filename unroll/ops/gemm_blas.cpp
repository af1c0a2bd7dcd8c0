#include <cblas.h>
#include <unroll/ops/gemm.h>

#include <algorithm>

namespace unroll::detail {
namespace {

template <class T>
void product(const Gemm& g, const T* a, const T* b, const T* bias, T* c) {
  // OpenBLAS's own threads would fight ours.
  static const bool alone = (openblas_set_num_threads(1), true);
  (void)alone;
  const auto lda = static_cast<int>(g.transpose_a ? g.m : g.k);
  const auto ldb = static_cast<int>(g.ldb != 0 ? g.ldb : (g.transpose_b ? g.k : g.n));
  const auto m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
  const auto ta = g.transpose_a ? CblasTrans : CblasNoTrans;
  const auto tb = g.transpose_b ? CblasTrans : CblasNoTrans;
  for (std::int64_t i = 0; i < g.batch; ++i) {
    T* out = c + i * g.step_c;
    if (g.bias)
      for (std::int64_t row = 0; row < g.m; ++row) std::copy(bias, bias + g.n, out + row * g.n);
    const T beta = g.accumulate || g.bias ? T(1) : T(0);
    if constexpr (std::is_same_v<T, float>) {
      cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1, a + i * g.step_a, lda, b + i * g.step_b, ldb,
                  beta, out, n);
    } else {
      cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, 1, a + i * g.step_a, lda, b + i * g.step_b, ldb,
                  beta, out, n);
    }
  }
}

}  // namespace

void gemm_blas(const Gemm& g, const float* a, const float* b, const float* bias, float* c) {
  product(g, a, b, bias, c);
}

void gemm_blas(const Gemm& g, const double* a, const double* b, const double* bias, double* c) {
  product(g, a, b, bias, c);
}

}  // namespace unroll::detail
