#include <unroll/graph/precision.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/bf16.h>
#include <unroll/ops/gemm.h>
#include <unroll/ops/gemm_amx.h>
#include <unroll/ops/gemm_row.h>
#include <unroll/ops/gemm_small.h>
#include <unroll/ops/simd.h>

#include <algorithm>

namespace unroll {
namespace {

using detail::Bf16;

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
#ifdef UNROLL_ONEDNN
  detail::gemm_onednn(g, a, b, bias, c);
#else
  detail::gemm_blas(g, a, b, bias, c);
#endif
}

void run_piece(const Gemm& g, const Bf16* a, const Bf16* b, const float* bias, float* c) {
#ifdef UNROLL_ONEDNN
  detail::gemm_onednn(g, a, b, bias, c);
#else
  (void)g, (void)a, (void)b, (void)bias, (void)c;
  check_precision(DType::bf16);  // says what is missing
#endif
}

void run_piece(const Gemm& g, const double* a, const double* b, const double* bias, double* c) {
  detail::gemm_blas(g, a, b, bias, c);
}

// A piece is worth a thread from about 100 us on, or 80 on tiles (half as many and a quarter made
// no difference on two threads).
constexpr double flops_a_piece = 24e6;

double flops(const Gemm& g) {
  return 2.0 * static_cast<double>(g.m * g.n * g.batch) * static_cast<double>(g.k);
}

// How many pieces a product is cut into. The backend sums every element of the result in the same
// order whatever rows and columns are computed with it, so the cut does not show in the bits.
std::int64_t piece_count(const Gemm& g) {
  if (detail::is_alone()) return 1;
  const auto worth = static_cast<std::int64_t>(flops(g) / flops_a_piece);
  return std::clamp<std::int64_t>(worth, 1, threads());
}

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Of a product whose rows, or columns, are cut: how many a piece has.
std::int64_t row_step(const Gemm& g) {
  const std::int64_t pieces = piece_count(g);
  return round_up((g.m + pieces - 1) / pieces, 32);
}
std::int64_t column_step(const Gemm& g) {
  const std::int64_t pieces = piece_count(g);
  return round_up((g.n + pieces - 1) / pieces, 64);
}

// Each piece of a product on tiles lays out its part of one operand and the whole of the other,
// which is to be the smaller one: A only where it is much smaller, as it may have to be turned.
bool cuts_columns(const Gemm& g) { return 2 * g.m < g.n; }
std::int64_t side_to_cut(const Gemm& g) { return cuts_columns(g) ? g.n : g.m; }
std::int64_t step_on_tiles(const Gemm& g) { return cuts_columns(g) ? column_step(g) : row_step(g); }

// Rows begin to end of the result. Columns of a transposed A are copied out: in place the backend
// would take another way, and sum in another order.
template <class In, class T>
void run_rows(const Gemm& g, std::int64_t begin, std::int64_t end, const In* a, const In* b,
              const T* bias, T* c) {
  Gemm piece = g;
  piece.m = end - begin;
  if (!g.transpose_a) return run_piece(piece, a + begin * g.k, b, bias, c + begin * g.n);
  Tensor columns = Tensor::empty({g.k, piece.m, static_cast<std::int64_t>(sizeof(In))}, DType::u8);
  for (std::int64_t i = 0; i < g.k; ++i)
    std::copy_n(a + i * g.m + begin, piece.m, columns.mutable_ptr<In>() + i * piece.m);
  run_piece(piece, columns.ptr<In>(), b, bias, c + begin * g.n);
}

// Calls f(begin, end, work) for each piece, on a thread of its own, with `bytes` of memory to work
// in. All of it is there before any piece begins: where there is none, C stays as it was.
template <class F>
void run_on_tiles(const Gemm& g, std::int64_t count, std::int64_t step, std::size_t bytes,
                  const F& f) {
  const std::int64_t pieces = (count + step - 1) / step, each = static_cast<std::int64_t>(bytes);
  Tensor work = Tensor::empty({pieces * each}, DType::u8);
  parallel_for(count, step, flops(g), [&](std::int64_t begin, std::int64_t end) {
    f(detail::Span{begin, end}, work.bytes() + begin / step * each);
  });
}

void run_amx(const Gemm& g, const GemmFunctions& f, const float* a, const float* b,
             const float* bias, float* c) {
  const bool columns = cuts_columns(g);
  run_on_tiles(g, side_to_cut(g), step_on_tiles(g), detail::amx_workspace(g, f),
               [&](detail::Span part, std::byte* work) {
                 const detail::Span all{0, columns ? g.m : g.n};
                 detail::gemm_amx(g, columns ? all : part, columns ? part : all, a, b, bias, c,
                                  work, f);
               });
}

template <class In, class T>
void cut_and_run(const Gemm& g, const In* a, const In* b, const T* bias, T* c) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return;
  if (g.k == 0) {
    for (std::int64_t i = 0; i < g.batch && !g.accumulate; ++i)
      for (std::int64_t j = 0; j < g.m * g.n; ++j)
        c[i * g.step_c + j] = g.bias ? bias[j % g.n] : T(0);
    return;
  }
  // Told from the whole product: a row that a cut leaves over is summed as its neighbours are.
  if constexpr (std::is_same_v<In, float>)
    if (g.m == 1 && g.batch == 1 && g.transpose_b && !g.transpose_a)
      return row_times_transposed(g, a, b, bias, c);
  const std::int64_t pieces = piece_count(g);
  if constexpr (std::is_same_v<In, float>)
    if (detail::is_amx(g)) return run_amx(g, {}, a, b, bias, c);
  if (pieces == 1) return run_piece(g, a, b, bias, c);
  if (g.batch > 1) {
    const std::int64_t step = (g.batch + pieces - 1) / pieces;
    parallel_for(g.batch, step, flops(g), [&](std::int64_t begin, std::int64_t end) {
      Gemm piece = g;
      piece.batch = end - begin;
      run_piece(piece, a + begin * g.step_a, b + begin * g.step_b, bias, c + begin * g.step_c);
    });
    return;
  }
  parallel_for(g.m, row_step(g), flops(g), [&](std::int64_t begin, std::int64_t end) {
    run_rows(g, begin, end, a, b, bias, c);
  });
}

std::int64_t elements_of_a(const Gemm& g) { return (g.batch - 1) * g.step_a + g.m * g.k; }
std::int64_t elements_of_b(const Gemm& g) {
  const std::int64_t rows = g.transpose_b ? g.n : g.k, columns = g.transpose_b ? g.k : g.n;
  const std::int64_t one = g.ldb != 0 ? (rows - 1) * g.ldb + columns : rows * columns;
  return (g.batch - 1) * g.step_b + one;
}

// Rounds the operands once, whatever pieces the product is cut into.
void round_and_run(const Gemm& g, const float* a, const float* b, const float* bias, float* c) {
  check_precision(DType::bf16);
  const Tensor a16 = detail::rounded_to_bf16(a, elements_of_a(g)),
               b16 = detail::rounded_to_bf16(b, elements_of_b(g));
  cut_and_run(g, a16.ptr<Bf16>(), b16.ptr<Bf16>(), bias, c);
}

// Of functions of single numbers.
template <class F>
void over_elements(std::int64_t count, const F& f) {
  parallel_for(count, 4096, 16.0 * static_cast<double>(count),
               [&](std::int64_t begin, std::int64_t end) { f(begin, end - begin); });
}

// Must what is read several times be computed before? Not where it is laid out once for all.
bool maps_beforehand(const Gemm& g, const GemmFunctions& f) {
  return f.of_a != nullptr && !detail::reads_once(g);
}

template <class T>
constexpr bool backend_packs =
#ifdef UNROLL_ONEDNN
    std::is_same_v<T, float>;
#else
    false;
#endif

}  // namespace

template <class T>
PackedGemm<T>::PackedGemm(const Gemm& g, const T* b) : whole_(g) {
  if (g.m > 0 && g.n > 0 && g.k > 0) {
    if (detail::is_row(g)) {
      form_ = Form::row;
      b_ = b;
      return;
    } else if (std::is_same_v<T, float> && detail::is_amx(g)) {
      form_ = Form::amx;
    } else if (!backend_packs<T>) {
      // As it is: a product has the same bits whether it is packed or not.
    } else if (detail::is_small(g)) {
      form_ = Form::small;  // which sums in the backend's order
    } else {
      // Few rows share many columns: the columns are what is cut.
      const std::int64_t step = column_step(g);
      for (std::int64_t column = 0; column < g.n; column += step) {
        Gemm piece = g;
        piece.packed = true;
        piece.n = std::min(step, g.n - column);
        piece.ldb = g.transpose_b ? g.k : g.n;
        pieces_.push_back({piece, column, Tensor()});
      }
    }
  }
  pack(b);
}

template <class T>
void PackedGemm<T>::pack(const T* b) {
  b_ = b;
  if (form_ == Form::row && !panels_.defined()) return;
  if (form_ == Form::amx) {
    if (!panels_.defined())
      panels_ =
          Tensor::empty({static_cast<std::int64_t>(detail::amx_packed_bytes(whole_))}, DType::u8);
    if constexpr (std::is_same_v<T, float>)
      if (!panels_.is_abstract()) detail::pack_amx(whole_, b, panels_.bytes());
    return;
  }
  if (form_ != Form::backend) {
    if (!panels_.defined())
      panels_ = Tensor::empty({detail::small_panel_size(whole_)}, dtype_of<T>());
    if (panels_.is_abstract()) return;
    if (form_ == Form::row) return detail::pack_row(whole_, b, panels_.mutable_ptr<T>());
    if constexpr (std::is_same_v<T, float>)
      return detail::pack_small(whole_, b, panels_.mutable_ptr<T>());
  }
#ifdef UNROLL_ONEDNN
  if constexpr (std::is_same_v<T, float>) {
    if (pieces_.empty()) return;
    Tensor rounded;
    if (whole_.bf16) rounded = detail::rounded_to_bf16(b, whole_.k * whole_.n);
    const auto* const rows = whole_.bf16 ? rounded.bytes() : reinterpret_cast<const std::byte*>(b);
    const auto size = static_cast<std::int64_t>(whole_.bf16 ? sizeof(Bf16) : sizeof(float));
    for (Piece& piece : pieces_) {
      if (!piece.b.defined())
        piece.b = Tensor::empty(
            {static_cast<std::int64_t>(detail::packed_bytes_onednn(piece.gemm))}, DType::u8);
      if (piece.b.is_abstract()) continue;
      const std::int64_t first = piece.column * (whole_.transpose_b ? whole_.k : 1);
      detail::pack_onednn(piece.gemm, rows + first * size, piece.b.bytes());
    }
  }
#endif
}

template <class T>
void PackedGemm<T>::settle(const T* b) {
  if (form_ == Form::row && !panels_.defined())
    panels_ = Tensor::empty({detail::row_panel_size<T>(whole_)}, dtype_of<T>());
  pack(b);
}

template <class T>
void PackedGemm<T>::run(const T* a, const T* bias, T* c) const {
  if (form_ == Form::row && panels_.defined()) {
    // There and back again: what the last row read last is still in the cache.
    backwards_ = !backwards_;
    return detail::gemm_row(whole_, a, panels_.ptr<T>(), bias, c, backwards_);
  }
  if constexpr (std::is_same_v<T, float>)
    if (form_ == Form::small) return detail::gemm_small(whole_, a, panels_.ptr<T>(), bias, c);
  if (form_ == Form::amx) return run_amx(a, bias, c);
  if (pieces_.empty()) return gemm(whole_, a, b_, bias, c);
  if constexpr (std::is_same_v<T, float>) {
    if (whole_.bf16) {
      const Tensor rounded = detail::rounded_to_bf16(a, whole_.m * whole_.k);
      return run_pieces(rounded.ptr<Bf16>(), bias, c);
    }
  }
  run_pieces(a, bias, c);
}

template <class T>
template <class In>
void PackedGemm<T>::run_pieces(const In* a, const T* bias, T* c) const {
  if (pieces_.size() == 1)
    return run_piece(pieces_[0].gemm, a, pieces_[0].b.template ptr<In>(), bias, c);
  parallel_for(static_cast<std::int64_t>(pieces_.size()), 1, flops(whole_),
               [&](std::int64_t i, std::int64_t) {
                 run_columns(pieces_[static_cast<std::size_t>(i)], a, bias, c);
               });
}

template <class T>
void PackedGemm<T>::run_amx(const T* a, const T* bias, T* c) const {
  if constexpr (std::is_same_v<T, float>)
    run_on_tiles(whole_, whole_.n, column_step(whole_), detail::amx_packed_workspace(whole_),
                 [&](detail::Span columns, std::byte* work) {
                   detail::gemm_amx_packed(whole_, columns, a, panels_.bytes(), bias, c, work);
                 });
}

// By way of memory of its own: the backend is fast where the result's rows follow each other.
template <class T>
template <class In>
void PackedGemm<T>::run_columns(const Piece& piece, const In* a, const T* bias, T* c) const {
  const std::int64_t n = piece.gemm.n;
  Tensor columns = Tensor::empty({whole_.m, n}, dtype_of<T>());
  T* const own = columns.mutable_ptr<T>();
  const auto copy = [&](bool back) {
    for (std::int64_t i = 0; i < whole_.m; ++i) {
      T* const there = c + i * whole_.n + piece.column;
      back ? std::copy_n(own + i * n, n, there) : std::copy_n(there, n, own + i * n);
    }
  };
  if (whole_.accumulate) copy(false);
  run_piece(piece.gemm, a, piece.b.template ptr<In>(),
            bias == nullptr ? nullptr : bias + piece.column, own);
  copy(true);
}

template class PackedGemm<float>;
template class PackedGemm<double>;

std::size_t gemm_workspace(const Gemm& g, DType dtype, const GemmFunctions& f) {
  if (dtype == DType::f32 && detail::is_amx(g) && !maps_beforehand(g, f)) {
    const std::int64_t step = step_on_tiles(g);
    return detail::amx_workspace(g, f) *
           static_cast<std::size_t>((side_to_cut(g) + step - 1) / step);
  }
  if (f.any()) {
    const std::int64_t mapped =
        (f.of_a != nullptr ? g.m * g.k : 0) + (f.of_b != nullptr ? g.k * g.n : 0);
    return gemm_workspace(g, dtype) + static_cast<std::size_t>(mapped) * sizeof(float);
  }
  const bool rounds = g.bf16 && dtype == DType::f32;
  const bool copies = g.transpose_a && g.batch == 1 && piece_count(g) > 1;
  const auto element = rounds ? sizeof(Bf16) : static_cast<std::size_t>(size_of(dtype));
  std::size_t count = copies ? static_cast<std::size_t>(g.m * g.k) : 0;
  if (rounds) count += static_cast<std::size_t>(elements_of_a(g) + elements_of_b(g));
  return count * element;
}

void gemm(const Gemm& g, const float* a, const float* b, const float* bias, float* c) {
  const bool empty = g.m == 0 || g.n == 0 || g.k == 0 || g.batch == 0;
  if (g.bf16 && !empty && !detail::is_amx(g)) return round_and_run(g, a, b, bias, c);
  cut_and_run(g, a, b, bias, c);
}

void gemm(const Gemm& g, const double* a, const double* b, const double* bias, double* c) {
  cut_and_run(g, a, b, bias, c);
}

void gemm(const Gemm& g, const GemmFunctions& f, const float* a, const float* b, const float* bias,
          float* c) {
  if (g.batch != 1 || (f.of_a != nullptr && g.transpose_a) ||
      (f.of_b != nullptr && (g.transpose_b || g.ldb != 0)))
    fail("gemm", "functions of operands that are transposed, cut out or a batch");
  const bool empty = g.m == 0 || g.n == 0 || g.k == 0;
  if (!empty && detail::is_amx(g) && !maps_beforehand(g, f)) return run_amx(g, f, a, b, bias, c);
  Tensor mapped_a, mapped_b;
  const auto map = [](GemmFunctions::Map function, std::int64_t count, const float*& x, Tensor& y) {
    if (function == nullptr) return;
    y = Tensor::empty({count}, DType::f32);
    float* const to = y.mutable_ptr<float>();
    over_elements(count, [&](std::int64_t i, std::int64_t n) { function(x + i, to + i, n); });
    x = to;
  };
  map(f.of_a, g.m * g.k, a, mapped_a);
  map(f.of_b, g.k * g.n, b, mapped_b);
  gemm(g, a, b, bias, c);
  if (f.of_c != nullptr)
    over_elements(g.m * g.n,
                  [&](std::int64_t i, std::int64_t n) { f.of_c(f.gate + i, c + i, c + i, n); });
}

}  // namespace unroll
