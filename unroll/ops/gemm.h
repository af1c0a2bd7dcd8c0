#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <vector>

namespace unroll {

/// One product, or a batch of them: C = op(A) op(B) (+ bias on every row | + C).
/// Row-major: A is [m, k], or [k, m] where transposed; B likewise [k, n] or [n, k]; C is [m, n].
struct Gemm {
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;  ///< add to what C holds
  bool bias = false;        ///< add a vector [n] to every row; not together with accumulate
  bool packed = false;      ///< B is as PackedGemm lays it out
  bool bf16 = false;        ///< f32 operands are rounded to bf16; sums, bias and C stay f32
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batch = 1;
  std::int64_t ldb = 0;  ///< elements from one row of B to the next; 0: its row length
  /// Elements from one product's operand to the next; 0: shared by all.
  std::int64_t step_a = 0, step_b = 0, step_c = 0;

  friend bool operator==(const Gemm&, const Gemm&) = default;
};

/// Functions of single numbers, applied where a product reads and writes them anyway: on matrix
/// tiles what they give is never in memory as a whole. Elsewhere, and of A where it would be
/// computed more than once (n > 512), it is for the time of the call.
struct GemmFunctions {
  using Map = void (*)(const float* x, float* y, std::int64_t n);
  using Gate = void (*)(const float* x, const float* c, float* y, std::int64_t n);
  Map of_a = nullptr;  ///< the product is f(A) B; A is not transposed
  Map of_b = nullptr;  ///< likewise; B's rows follow each other
  Gate of_c = nullptr;
  const float* gate = nullptr;  ///< [m, n]: C becomes of_c(gate, C)
  bool any() const { return of_a != nullptr || of_b != nullptr || of_c != nullptr; }
};

/// f32 goes to the processor's matrix tiles where it has some (amx.h), else to oneDNN where it is
/// built in; f64 to OpenBLAS. Bits do not depend on the number of threads. With `bf16` f32 needs
/// oneDNN and a processor that has it (check_precision()).
void gemm(const Gemm& g, const float* a, const float* b, const float* bias, float* c);
void gemm(const Gemm& g, const double* a, const double* b, const double* bias, double* c);
/// The same with functions, for a batch of 1. Throws Error where an operand with a function is
/// transposed or cut out.
void gemm(const Gemm& g, const GemmFunctions& functions, const float* a, const float* b,
          const float* bias, float* c);

/// Bytes that gemm() allocates for itself, on all threads together.
std::size_t gemm_workspace(const Gemm& g, DType dtype, const GemmFunctions& functions = {});

/// Products that share one right operand, which is laid out for the backend once: pays from the
/// second product on. One row (m = 1) reads each element once, so that laying out costs as much as
/// several products: there settle() alone does it. Set up for as many threads() as there are when
/// it is made.
template <class T>
class PackedGemm {
 public:
  /// One product (batch 1); b [k, n], or [n, k] where transposed.
  PackedGemm(const Gemm& g, const T* b);
  /// Lays out another right operand of the same shape.
  void pack(const T* b);
  /// The same for one that is kept for good, or others like it in its place.
  void settle(const T* b);
  void run(const T* a, const T* bias, T* c) const;

 private:
  struct Piece {
    Gemm gemm;
    std::int64_t column = 0;
    Tensor b;  // undefined where the backend takes it as it is
  };
  // In: T, or bf16's bits.
  template <class In>
  void run_pieces(const In* a, const T* bias, T* c) const;
  void run_amx(const T* a, const T* bias, T* c) const;
  template <class In>
  void run_columns(const Piece& piece, const In* a, const T* bias, T* c) const;

  Gemm whole_;
  const T* b_ = nullptr;
  // See gemm_amx.h, gemm_small.h, gemm_row.h.
  enum class Form : std::uint8_t { backend, amx, small, row };
  Form form_ = Form::backend;
  Tensor panels_;                   // of the latter three
  mutable bool backwards_ = false;  // the order in which the next row goes through them
  CachedVector<Piece> pieces_;
};

namespace detail {
// One piece on the calling thread alone. A and B hold f32, or bf16 where the flag is set.
void gemm_onednn(const Gemm& g, const void* a, const void* b, const float* bias, float* c);
std::size_t packed_bytes_onednn(const Gemm& g);
void pack_onednn(const Gemm& g, const void* b, std::byte* packed);
void gemm_blas(const Gemm& g, const float* a, const float* b, const float* bias, float* c);
void gemm_blas(const Gemm& g, const double* a, const double* b, const double* bias, double* c);
}  // namespace detail

}  // namespace unroll
