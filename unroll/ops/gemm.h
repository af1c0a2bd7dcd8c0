#pragma once

#include <cstdint>

namespace unroll {

/// One product, or a batch of them: C = op(A) op(B) (+ bias on every row | + C).
/// Row-major: A is [m, k], or [k, m] where transposed; B likewise [k, n] or [n, k]; C is [m, n].
struct Gemm {
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;  ///< add to what C holds
  bool bias = false;        ///< add a vector [n] to every row; not together with accumulate
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t lda = 0;  ///< elements from one row of A to the next; 0: its row length
  std::int64_t batch = 1;
  /// Elements from one product's operand to the next; 0: shared by all.
  std::int64_t step_a = 0, step_b = 0, step_c = 0;

  friend bool operator==(const Gemm&, const Gemm&) = default;
};

/// f32 goes to oneDNN where it is built in, f64 to OpenBLAS. Bits do not depend on the number of
/// threads: large products are cut by their shape alone.
void gemm(const Gemm& g, const float* a, const float* b, const float* bias, float* c);
void gemm(const Gemm& g, const double* a, const double* b, const double* bias, double* c);

namespace detail {
// One piece on the calling thread alone.
void gemm_onednn(const Gemm& g, const float* a, const float* b, const float* bias, float* c);
void gemm_blas(const Gemm& g, const float* a, const float* b, const float* bias, float* c);
void gemm_blas(const Gemm& g, const double* a, const double* b, const double* bias, double* c);
}  // namespace detail

}  // namespace unroll
