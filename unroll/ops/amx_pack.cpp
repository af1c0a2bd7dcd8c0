// Compiled for a processor that has tiles, as amx.cpp is.
#include <unroll/ops/amx_panel.h>

#if defined(UNROLL_AMX) && defined(__linux__)
namespace unroll::detail::amx {
namespace {

// The parts of x and of y, each pair in 32 bits: x's low, y's high. Three are the numbers.
inline void split(__m512 x, __m512 y, __m512i (&parts)[3]) {
  const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(-0x10000);
  for (int part = 0; part < 2; ++part) {
    const __m512i near_x = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
    const __m512i near_y = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(y), half), upper);
    parts[part] = _mm512_or_si512(_mm512_srli_epi32(near_x, 16), near_y);
    x = _mm512_sub_ps(x, _mm512_castsi512_ps(near_x));
    y = _mm512_sub_ps(y, _mm512_castsi512_ps(near_y));
  }
  // Eight bits are left, the upper half, but where denormals live: these have some in the lower.
  parts[2] = _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(x), 16),
                             _mm512_and_si512(_mm512_castps_si512(y), upper));
}

// One is what bf16 leaves of them, to nearest even; NaN stays NaN, denormals are 0.
inline void split(__m512 x, __m512 y, __m512i (&parts)[1]) {
  const auto round = [](__m512 z) {
    return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(z)));
  };
  parts[0] = _mm512_or_si512(round(x), _mm512_slli_epi32(round(y), 16));
}

inline void transpose(__m512 rows[side]) {
  __m512 half[side];
  for (int i = 0; i < 16; i += 2) {
    half[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    half[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      const __m512d x = _mm512_castps_pd(half[i + j]), y = _mm512_castps_pd(half[i + j + 2]);
      rows[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      rows[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  constexpr int even = 0x88, odd = 0xdd;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 16; j += 8) {
      half[j + i] = _mm512_shuffle_f32x4(rows[j + i], rows[j + i + 4], even);
      half[j + i + 4] = _mm512_shuffle_f32x4(rows[j + i], rows[j + i + 4], odd);
    }
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_f32x4(half[i], half[i + 8], even);
    rows[i + 8] = _mm512_shuffle_f32x4(half[i], half[i + 8], odd);
  }
}

// The first `count` of 16 numbers, zeros behind.
inline __m512 load(const float* p, std::int64_t count) {
  if (count >= side) return _mm512_loadu_ps(p);
  if (count <= 0) return _mm512_setzero_ps();
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1), p);
}

// The 16 x 32 numbers of a tile: from row `first` on, and from a depth of `k`.
template <int Parts, bool Left, bool Along>
inline void pack_tile(const Rows& from, std::int64_t rows, std::int64_t depth, std::int64_t first,
                      std::int64_t k, std::uint32_t* to) {
  const auto read = [&](std::int64_t i, __m512& x, __m512& y) {
    const float* const p =
        from.data + (Along ? (first + i) * from.row + k : (k + i) * from.depth_step + first);
    // As a rule they lie in no cache, and too far apart for the processor to guess.
    const float* const soon = p + (Along ? step_depth : 2 * step_depth * from.depth_step);
    _mm_prefetch(soon, _MM_HINT_T0);
    _mm_prefetch(soon + side * from.depth_step, _MM_HINT_T0);
    if constexpr (Along) {
      const bool there = first + i < rows;
      x = load(p, there ? depth - k : 0);
      y = load(p + side, there ? depth - k - side : 0);
    } else {
      x = load(p, k + i < depth ? rows - first : 0);
      y = load(p + side * from.depth_step, k + i + side < depth ? rows - first : 0);
    }
  };
  const auto write = [&](std::int64_t i, __m512 x, __m512 y) {
    __m512i parts[Parts];
    split(x, y, parts);
    for (int part = 0; part < Parts; ++part)
      _mm512_store_si512(to + part * part_size + i * side, parts[part]);
  };
  __m512 x[side], y[side];
  if constexpr (Left == Along) {
    for (std::int64_t i = 0; i < side; ++i) read(i, x[0], y[0]), write(i, x[0], y[0]);
  } else {
    // A tile of A has rows along depth, one of B across.
    for (std::int64_t i = 0; i < side; ++i) read(i, x[i], y[i]);
    transpose(x), transpose(y);
    for (std::int64_t i = 0; i < side; ++i) write(i, x[i], y[i]);
  }
}

template <int Parts, bool Left, bool Along>
void pack(const Rows& from, std::int64_t rows, std::int64_t depth, std::byte* panels) {
  const auto panel = [&](std::int64_t row) {
    return reinterpret_cast<std::uint32_t*>(panels + static_cast<std::size_t>(row / panel_side) *
                                                         panel_bytes(depth, Parts));
  };
  const auto pack_step = [&](std::int64_t row, std::int64_t k) {
    std::uint32_t* const to = panel(row) + k / step_depth * step_size(Parts);
    pack_tile<Parts, Left, Along>(from, rows, depth, row, k, to);
    pack_tile<Parts, Left, Along>(from, rows, depth, row + side, k, to + tile_size);
  };
  // In the order in which the numbers lie in memory.
  if constexpr (Along) {
    for (std::int64_t row = 0; row < rows; row += panel_side)
      for (std::int64_t k = 0; k < depth; k += step_depth) pack_step(row, k);
  } else {
    for (std::int64_t k = 0; k < depth; k += step_depth)
      for (std::int64_t row = 0; row < rows; row += panel_side) pack_step(row, k);
  }
}

template <int Parts, bool Left>
void pack(const Rows& from, std::int64_t rows, std::int64_t depth, std::byte* panels) {
  from.depth_step == 1 ? pack<Parts, Left, true>(from, rows, depth, panels)
                       : pack<Parts, Left, false>(from, rows, depth, panels);
}

}  // namespace

void pack_left(const Rows& a, std::int64_t rows, std::int64_t depth, int parts, std::byte* panels) {
  parts == 1 ? pack<1, true>(a, rows, depth, panels) : pack<3, true>(a, rows, depth, panels);
}

void pack_right(const Rows& b, std::int64_t columns, std::int64_t depth, int parts,
                std::byte* panels) {
  parts == 1 ? pack<1, false>(b, columns, depth, panels)
             : pack<3, false>(b, columns, depth, panels);
}

}  // namespace unroll::detail::amx

#else

namespace unroll::detail::amx {
void pack_left(const Rows&, std::int64_t, std::int64_t, int, std::byte*) {}
void pack_right(const Rows&, std::int64_t, std::int64_t, int, std::byte*) {}
}  // namespace unroll::detail::amx

#endif
