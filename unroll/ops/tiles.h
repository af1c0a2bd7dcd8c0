#pragma once

// What tiled attention is made of: products of tiles that lie in the caches, a power of two, and
// turning rows into columns.

#include <unroll/ops/lane_loops.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace unroll::detail {

/// C (+)= A B. A [rows, depth] is read element by element: row-major, or, where `across`, from its
/// transpose [depth, rows]. B and C are rows of whole vectors.
template <class T>
struct TileProduct {
  std::int64_t rows = 0, depth = 0;
  std::int64_t vectors = 0;  ///< of a row of B and C
  const T* a = nullptr;
  std::int64_t a_step = 0;  ///< elements from one row of A (as it lies in memory) to the next
  bool across = false;
  const T* b = nullptr;
  std::int64_t b_step = 0;
  T* c = nullptr;
  std::int64_t c_step = 0;
  bool add = false;  ///< to what C holds
  /// To what C holds, behind the sum: for every element one sum from 0 on, in the order of depth,
  /// as oneDNN makes it.
  bool add_last = false;
};

/// Sums of `Rows` rows and `Vectors` vectors in registers, for which each vector of B is read once.
template <class T, int Rows, int Vectors, bool Across>
inline void tile_block(const TileProduct<T>& p, const T* a, const T* b, T* c) {
  namespace hn = simd::hn;
  constexpr std::int64_t lanes = simd::Lanes<T>::count;
  const simd::Tag<T> d;
  hn::Vec<simd::Tag<T>> sum[Rows][Vectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      sum[r][v] = p.add ? hn::LoadU(d, c + r * p.c_step + v * lanes) : hn::Zero(d);
  const std::int64_t row = Across ? 1 : p.a_step, next = Across ? p.a_step : 1, b_step = p.b_step;
  for (std::int64_t k = p.depth; k > 0; --k) {
    hn::Vec<simd::Tag<T>> right[Vectors];
    for (int v = 0; v < Vectors; ++v) right[v] = hn::LoadU(d, b + v * lanes);
    for (int r = 0; r < Rows; ++r) {
      const auto left = hn::Set(d, a[r * row]);
      for (int v = 0; v < Vectors; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
    }
    a += next;
    b += b_step;
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) {
      T* const to = c + r * p.c_step + v * lanes;
      if (p.add_last) sum[r][v] = hn::Add(sum[r][v], hn::LoadU(d, to));
      hn::StoreU(sum[r][v], d, to);
    }
}

/// All rows of a product as wide as one block. Out of line: pointers and sizes alone go in.
template <class T, int Vectors, bool Across>
[[gnu::noinline]] UNROLL_FLATTEN void tile_panel(const TileProduct<T>& p, std::int64_t column) {
  // As many sums as registers hold beside what they are made from, and enough of them that an
  // addition need not wait for the one before.
  constexpr int most = Vectors >= 4 ? 6 : 8;
  const T* a = p.a;
  const T* b = p.b + column;
  T* c = p.c + column;
  std::int64_t left = p.rows;
  const auto run = [&]<int Rows>(std::integral_constant<int, Rows>) {
    for (; left >= Rows; left -= Rows) {
      tile_block<T, Rows, Vectors, Across>(p, a, b, c);
      a += Across ? Rows : Rows * p.a_step;
      c += Rows * p.c_step;
    }
  };
  run(std::integral_constant<int, most>());
  run(std::integral_constant<int, 4>());
  run(std::integral_constant<int, 2>());
  run(std::integral_constant<int, 1>());
}

template <class T>
void multiply(const TileProduct<T>& p) {
  constexpr std::int64_t lanes = simd::Lanes<T>::count;
  // 512-bit vectors come with 32 registers, narrower ones perhaps with 16.
  constexpr std::int64_t most = sizeof(simd::Lanes<T>) >= 64 ? 4 : 2;
  for (std::int64_t v = 0; v < p.vectors; v += most) {
    const std::int64_t wide = std::min(most, p.vectors - v), column = v * lanes;
    if (wide == 1)
      p.across ? tile_panel<T, 1, true>(p, column) : tile_panel<T, 1, false>(p, column);
    if (wide == 2)
      p.across ? tile_panel<T, 2, true>(p, column) : tile_panel<T, 2, false>(p, column);
    if constexpr (most > 2) {
      if (wide == 3)
        p.across ? tile_panel<T, 3, true>(p, column) : tile_panel<T, 3, false>(p, column);
      if (wide == 4)
        p.across ? tile_panel<T, 4, true>(p, column) : tile_panel<T, 4, false>(p, column);
    }
  }
}

inline constexpr double log2_e = 1.4426950408889634;

/// 2^x for x up to about 100, to a unit in the last place or two; 0 where the result would be
/// denormal. A NaN stays one.
template <class T>
simd::Lanes<T> power_of_two(simd::Lanes<T> x) {
  namespace hn = simd::hn;
  using L = simd::Lanes<T>;
  constexpr bool wide = std::is_same_v<T, double>;
  // Adding 1.5 * 2^(bits of the fraction) rounds to an integer, which then stands in the low bits.
  const L magic(wide ? 0x1.8p52 : 0x1.8p23);
  const L shifted = x + magic, f = x - (shifted - magic);
  // Interpolates 2^f at Chebyshev's points of [-0.5, 0.5].
  constexpr auto coefficients = [] {
    if constexpr (wide)
      return std::array{4.4558179083360645e-10, 7.0741942972885211e-09, 1.0178057087733941e-07,
                        1.3215432535912375e-06, 1.5252733841556773e-05, 1.5403530463724353e-04,
                        1.3333558146406471e-03, 9.6181291075872564e-03, 5.5504108664821625e-02,
                        2.4022650695910158e-01, 6.9314718055994529e-01, 1.0};
    else
      return std::array{1.3390863364671234e-03f, 9.6760319183220537e-03f, 5.5503571142190782e-02f,
                        2.4022107485308339e-01f, 6.9314718802622877e-01f, 1.0000000754548972f};
  }();
  L p(coefficients[0]);
  for (std::size_t i = 1; i < coefficients.size(); ++i)
    p = hn::MulAdd(p.v, f.v, L(coefficients[i]).v);
  const hn::RebindToSigned<simd::Tag<T>> bits;
  const L result = hn::BitCast(
      simd::Tag<T>(), hn::Add(hn::BitCast(bits, p.v),
                              hn::ShiftLeft < wide ? 52 : 23 > (hn::BitCast(bits, shifted.v))));
  return where<T>(x < L(wide ? -1021 : -125), L(0), result);
}

/// Turns a square of as many vectors as a vector has lanes, in registers.
template <class T, std::size_t N = simd::Lanes<T>::count>
void turn_square(simd::hn::Vec<simd::Tag<T>> (&x)[N]) {
  namespace hn = simd::hn;
  const simd::Tag<T> d;
  // Squares of 4 x 4 within each 128 bits, by interleaving twice,
  const hn::Repartition<double, simd::Tag<T>> pairs;
  for (std::size_t i = 0; i < N; i += 4) {
    const auto low = [&](auto a, auto b) {
      return hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
    };
    const auto high = [&](auto a, auto b) {
      return hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
    };
    const auto a = low(x[i], x[i + 1]), b = low(x[i + 2], x[i + 3]), e = high(x[i], x[i + 1]),
               g = high(x[i + 2], x[i + 3]);
    x[i] = hn::BitCast(d, hn::InterleaveLower(pairs, a, b));
    x[i + 1] = hn::BitCast(d, hn::InterleaveUpper(pairs, a, b));
    x[i + 2] = hn::BitCast(d, hn::InterleaveLower(pairs, e, g));
    x[i + 3] = hn::BitCast(d, hn::InterleaveUpper(pairs, e, g));
  }
  // then these as wholes: odd and even ones of vectors four apart, then halves of vectors eight
  // apart.
  if constexpr (N == 8) {
    for (std::size_t i = 0; i < 4; ++i) {
      const auto a = x[i], b = x[i + 4];
      x[i] = hn::ConcatLowerLower(d, b, a);
      x[i + 4] = hn::ConcatUpperUpper(d, b, a);
    }
  }
  if constexpr (N == 16) {
    for (std::size_t i = 0; i < 4; ++i) {
      for (std::size_t j = i; j < 16; j += 8) {
        const auto a = x[j], b = x[j + 4];
        x[j] = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(b), a);
        x[j + 4] = hn::OddEvenBlocks(b, hn::SwapAdjacentBlocks(a));
      }
      for (std::size_t j = i; j < 8; j += 4) {
        const auto a = x[j], b = x[j + 8];
        x[j] = hn::ConcatLowerLower(d, b, a);
        x[j + 8] = hn::ConcatUpperUpper(d, b, a);
      }
    }
  }
}

/// to[j * to_step + i] = f(at, from[i * from_step + j]) for `rows` i and `columns` j. f takes a
/// vector of columns, or some of them; at(p) reads p there.
template <class T, class F>
void turn(std::int64_t rows, std::int64_t columns, const T* from, std::int64_t from_step, T* to,
          std::int64_t to_step, const F& f) {
  using L = simd::Lanes<T>;
  constexpr std::int64_t lanes = L::count;
  if constexpr (sizeof(T) == 4 && (lanes == 4 || lanes == 8 || lanes == 16)) {
    simd::hn::Vec<simd::Tag<T>> square[lanes];
    for (std::int64_t row = 0; row < rows; row += lanes)
      for (std::int64_t column = 0; column < columns; column += lanes) {
        const T* const p = from + row * from_step;
        T* const q = to + column * to_step + row;
        const std::int64_t tall = std::min(lanes, rows - row),
                           wide = std::min(lanes, columns - column);
        if (tall == lanes && wide == lanes) {
          const simd::Whole<T> at{column};
          for (std::int64_t i = 0; i < lanes; ++i) square[i] = f(at, at(p + i * from_step)).v;
          turn_square<T>(square);
          for (std::int64_t j = 0; j < lanes; ++j) L(square[j]).store(q + j * to_step);
        } else {
          const simd::Rest<T> at{column, static_cast<std::size_t>(wide)};
          for (std::int64_t i = 0; i < lanes; ++i)
            square[i] = i < tall ? f(at, at(p + i * from_step)).v : L().v;
          turn_square<T>(square);
          for (std::int64_t j = 0; j < wide; ++j)
            L(square[j]).store_first(q + j * to_step, static_cast<std::size_t>(tall));
        }
      }
  } else {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j) {
        const simd::Rest<T> at{j, 1};
        to[j * to_step + i] = simd::hn::GetLane(f(at, at(from + i * from_step)).v);
      }
  }
}

}  // namespace unroll::detail
