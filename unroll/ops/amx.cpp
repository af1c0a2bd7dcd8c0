// Compiled for a processor that has tiles, whatever the rest is compiled for: it includes nothing
// whose inline functions others share, and runs only where available() says so.
#include <unroll/ops/amx.h>

#if defined(UNROLL_AMX) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace unroll::detail::amx {
namespace {

// Of a tile: rows, and numbers of 32 bits in one. Such a number is the parts of two f32, 16 apart
// in depth: which pairs a tile multiplies is free as long as both operands agree.
constexpr std::int64_t side = 16;
constexpr std::int64_t tile_size = side * side, part_size = 2 * tile_size,
                       step_size = 3 * part_size;

struct alignas(64) Configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {side, side, side, side, side, side, side, side};
};
static_assert(sizeof(Configuration) == 64);

bool allowed() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned tiles = 1U << 24, bf16 = 1U << 22;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & tiles) == 0 || (d & bf16) == 0)
    return false;
  // Linux saves a process's tiles only from when it has asked.
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// The parts of x and of y, each pair in 32 bits: x's low, y's high.
inline void split(__m512 x, __m512 y, __m512i parts[3]) {
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

// Where in a panel the parts of number k of row r are, and in which half of the 32 bits.
struct Place {
  std::int64_t index;
  bool high;
};
template <bool Left>
Place place(std::int64_t r, std::int64_t k) {
  const std::int64_t i = k % side, row = Left ? r % side : i, column = Left ? i : r % side;
  return {k / step_depth * step_size + r / side * tile_size + row * side + column,
          k % step_depth >= side};
}

// A number from its bits above, and those bits.
inline float as_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline std::uint32_t as_bits(float x) { return __builtin_bit_cast(std::uint32_t, x); }
inline bool is_finite(float x) { return (as_bits(x) & 0x7f800000U) != 0x7f800000U; }

// What is to stay below a limit: a number's bits but for its sign, which are in the numbers' order,
// infinities and NaN last. Of fit numbers no product, and no sum of products of their lesser parts
// in a step of depth, overflows; such a one could be of the other sign than the sum of the
// greatest.
constexpr float least_unfit = 0x1p63F;
inline __m512i size_bits(__m512 x) { return _mm512_slli_epi32(_mm512_castps_si512(x), 1); }
inline bool are_fit(__m512i greatest) {
  const __m512i limit = size_bits(_mm512_set1_ps(least_unfit));
  return _mm512_cmp_epu32_mask(greatest, limit, _MM_CMPINT_NLT) == 0;
}

// Parts cut off rather than rounded, so that no part of a finite number is infinite; what is not
// finite is its first part.
template <bool Left>
void pack_unfit(const Rows& rows, std::int64_t count, std::int64_t depth, std::uint32_t* panel) {
  for (std::int64_t r = 0; r < count; ++r)
    for (std::int64_t k = 0; k < depth; ++k) {
      float x = rows.data[r * rows.row + k * rows.depth_step];
      const Place at = place<Left>(r, k);
      for (int part = 0; part < 3; ++part) {
        std::uint32_t bits = as_bits(x) & 0xffff0000U;
        if (x != x) bits |= 0x00400000U;  // a NaN whose bits are all below stays one
        x = is_finite(x) ? x - as_float(bits) : 0.0F;
        std::uint32_t& word = panel[at.index + part * part_size];
        word = at.high ? (word & 0xffffU) | bits : (word & 0xffff0000U) | bits >> 16;
      }
    }
}

// The 16 x 32 numbers of a tile: from row `first` on, and from a depth of `k`. Whether all are fit.
template <bool Left, bool Along>
inline bool pack_tile(const Rows& from, std::int64_t rows, std::int64_t depth, std::int64_t first,
                      std::int64_t k, std::uint32_t* to) {
  __m512i greatest = _mm512_setzero_si512();
  const auto read = [&](std::int64_t i, __m512& x, __m512& y) {
    const float* const p =
        from.data + (Along ? (first + i) * from.row + k : (k + i) * from.depth_step + first);
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
    __m512i parts[3];
    split(x, y, parts);
    greatest = _mm512_max_epu32(greatest, _mm512_max_epu32(size_bits(x), size_bits(y)));
    for (int part = 0; part < 3; ++part)
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
  return are_fit(greatest);
}

// In a panel's last line: are its numbers fit?
constexpr std::size_t flag_index(std::int64_t depth) {
  return panel_bytes(depth) / sizeof(std::uint32_t) - side;
}
bool is_fit(const std::uint32_t* panel, std::int64_t depth) {
  return panel[flag_index(depth)] != 0;
}

template <bool Left, bool Along>
void pack(const Rows& from, std::int64_t rows, std::int64_t depth, std::byte* panels) {
  const auto panel = [&](std::int64_t row) {
    return reinterpret_cast<std::uint32_t*>(panels + static_cast<std::size_t>(row / panel_side) *
                                                         panel_bytes(depth));
  };
  const auto pack_step = [&](std::int64_t row, std::int64_t k) {
    std::uint32_t* const to = panel(row) + k / step_depth * step_size;
    const bool fit = pack_tile<Left, Along>(from, rows, depth, row, k, to) &
                     pack_tile<Left, Along>(from, rows, depth, row + side, k, to + tile_size);
    if (!fit) panel(row)[flag_index(depth)] = 0;
  };
  for (std::int64_t row = 0; row < rows; row += panel_side) panel(row)[flag_index(depth)] = 1;
  // In the order in which the numbers lie in memory.
  if constexpr (Along) {
    for (std::int64_t row = 0; row < rows; row += panel_side)
      for (std::int64_t k = 0; k < depth; k += step_depth) pack_step(row, k);
  } else {
    for (std::int64_t k = 0; k < depth; k += step_depth)
      for (std::int64_t row = 0; row < rows; row += panel_side) pack_step(row, k);
  }
  for (std::int64_t row = 0; row < rows; row += panel_side)
    if (!is_fit(panel(row), depth))
      pack_unfit<Left>({from.data + row * from.row, from.row, from.depth_step},
                       rows - row < panel_side ? rows - row : panel_side, depth, panel(row));
}

template <bool Left>
void pack(const Rows& from, std::int64_t rows, std::int64_t depth, std::byte* panels) {
  from.depth_step == 1 ? pack<Left, true>(from, rows, depth, panels)
                       : pack<Left, false>(from, rows, depth, panels);
}

// A block of C: 32 x 32, or 16 x 64 where A has no more rows, which takes two panels of B.
struct Block {
  const std::uint32_t* a;
  const std::uint32_t* b[2];
  std::int64_t steps;
  const float* start;  // what to add to, or null
  std::int64_t start_step;
  float* c;
  std::int64_t c_step;
};

// Tiles 0 to 3 hold C: at its beginning, and so many numbers behind. Products go from small to
// large.
inline void load_block(const Block& p, std::int64_t tile_1, std::int64_t tile_2) {
  if (p.start == nullptr) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  const std::int64_t step = p.start_step * 4;
  _tile_loadd(0, p.start, step);
  _tile_loadd(1, p.start + tile_1, step);
  _tile_loadd(2, p.start + tile_2, step);
  _tile_loadd(3, p.start + tile_1 + tile_2, step);
}

inline void store_block(const Block& p, std::int64_t tile_1, std::int64_t tile_2) {
  const std::int64_t step = p.c_step * 4;
  _tile_stored(0, p.c, step);
  _tile_stored(1, p.c + tile_1, step);
  _tile_stored(2, p.c + tile_2, step);
  _tile_stored(3, p.c + tile_1 + tile_2, step);
}

void block_32x32(const Block& p) {
  load_block(p, side, side * p.start_step);
  const std::uint32_t *a = p.a, *b = p.b[0];
  const auto left = [&a](int part) {
    _tile_loadd(4, a + part * part_size, 64);
    _tile_loadd(5, a + part * part_size + tile_size, 64);
  };
  const auto right = [&b](int part) {
    _tile_loadd(6, b + part * part_size, 64);
    _tile_loadd(7, b + part * part_size + tile_size, 64);
  };
  const auto product = [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  };
  for (std::int64_t s = p.steps; s > 0; --s, a += step_size, b += step_size) {
    left(0), right(2), product();
    right(1), product();
    left(1), product();
    right(0), product();
    left(2), product();
    left(0), product();
  }
  store_block(p, side, side * p.c_step);
}

void block_16x64(const Block& p) {
  load_block(p, side, 2 * side);
  const std::uint32_t *a = p.a, *b = p.b[0], *next = p.b[1];
  const auto left = [&](int part) { _tile_loadd(4, a + part * part_size, 64); };
  // The tiles of B go through 6 and 7.
  const auto product = [&](int part) {
    _tile_loadd(6, b + part * part_size, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + part * part_size + tile_size, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, next + part * part_size, 64);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, next + part * part_size + tile_size, 64);
    _tile_dpbf16ps(3, 4, 7);
  };
  for (std::int64_t s = p.steps; s > 0; --s, a += step_size, b += step_size, next += step_size) {
    left(0), product(2), product(1);
    left(1), product(1), product(0);
    left(2), product(0);
    left(0), product(0);
  }
  store_block(p, side, 2 * side);
}

// Rows and columns of C that there are, of the block that a kernel makes.
struct Extent {
  std::int64_t rows, columns, tall, wide;
  bool whole() const { return rows == tall && columns == wide; }
};

void run(const Block& block, const Extent& e) {
  asm volatile("" ::: "memory");  // what the tiles are about to read must have been written
  e.tall == side ? block_16x64(block) : block_32x32(block);
}

// Where C ends before the block does: by way of memory of its own.
[[gnu::noinline]] void run_edge(const Block& block, const Extent& e) {
  alignas(64) float own[panel_side * panel_side];
  const bool starts = block.start != nullptr;
  if (starts)
    for (std::int64_t r = 0; r < e.tall; ++r)
      for (std::int64_t i = 0; i < e.wide; ++i)
        own[r * e.wide + i] =
            r < e.rows && i < e.columns ? block.start[r * block.start_step + i] : 0.0F;
  run({.a = block.a,
       .b = {block.b[0], block.b[1]},
       .steps = block.steps,
       .start = starts ? own : nullptr,
       .start_step = e.wide,
       .c = own,
       .c_step = e.wide},
      e);
  for (std::int64_t r = 0; r < e.rows; ++r)
    for (std::int64_t i = 0; i < e.columns; ++i)
      block.c[r * block.c_step + i] = own[r * e.wide + i];
}

// The numbers of one step of depth, from what their parts sum up to: rows of A, or rows of B (whose
// columns the panel holds).
template <bool Left>
void unpack(const std::uint32_t* step, float to[panel_side][step_depth]) {
  const __m512i upper = _mm512_set1_epi32(-0x10000);
  for (std::int64_t tile = 0; tile < 2; ++tile)
    for (std::int64_t i = 0; i < side; ++i) {
      __m512 low = _mm512_setzero_ps(), high = low;
      for (int part = 2; part >= 0; --part) {
        const __m512i pair =
            _mm512_load_si512(step + part * part_size + tile * tile_size + i * side);
        low = _mm512_add_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)));
        high = _mm512_add_ps(high, _mm512_castsi512_ps(_mm512_and_si512(pair, upper)));
      }
      _mm512_store_ps(Left ? &to[tile * side + i][0] : &to[i][tile * side], low);
      _mm512_store_ps(Left ? &to[tile * side + i][side] : &to[i + side][tile * side], high);
    }
}

// In f32, one k after the other, for one panel of B.
void run_unfit(const Block& block, const Extent& e) {
  alignas(64) float a[panel_side][step_depth], b[step_depth][panel_side],
      sums[panel_side][panel_side] = {};
  for (std::int64_t r = 0; r < e.rows && block.start != nullptr; ++r)
    for (std::int64_t j = 0; j < e.columns; ++j) sums[r][j] = block.start[r * block.start_step + j];
  for (std::int64_t s = 0; s < block.steps; ++s) {
    unpack<true>(block.a + s * step_size, a);
    unpack<false>(block.b[0] + s * step_size, b);
    for (std::int64_t r = 0; r < e.rows; ++r)
      for (std::int64_t k = 0; k < step_depth; ++k)
        for (std::int64_t j = 0; j < panel_side; ++j) sums[r][j] += a[r][k] * b[k][j];
  }
  for (std::int64_t r = 0; r < e.rows; ++r)
    for (std::int64_t j = 0; j < e.columns; ++j) block.c[r * block.c_step + j] = sums[r][j];
}

// Where some panel is not fit: each one of B by itself, so that those which are fit go over tiles
// whatever lies beside them.
[[gnu::noinline]] void run_apart(const Block& block, const Extent& e, std::int64_t depth) {
  for (std::int64_t panel = 0; panel * panel_side < e.columns; ++panel) {
    const std::int64_t j = panel * panel_side;
    const std::uint32_t* const b = block.b[panel];
    const Block one{.a = block.a,
                    .b = {b, b},
                    .steps = block.steps,
                    .start = block.start != nullptr ? block.start + j : nullptr,
                    .start_step = block.start_step,
                    .c = block.c + j,
                    .c_step = block.c_step};
    const Extent extent{.rows = e.rows,
                        .columns = e.columns - j < panel_side ? e.columns - j : panel_side,
                        .tall = e.tall,
                        .wide = e.wide};
    is_fit(block.a, depth) && is_fit(b, depth) ? run_edge(one, extent) : run_unfit(one, extent);
  }
}

}  // namespace

bool available() {
  static const bool yes = allowed();
  return yes;
}

Tiles::Tiles() {
  static constexpr Configuration all_whole;
  _tile_loadconfig(&all_whole);
}

Tiles::~Tiles() { _tile_release(); }

void pack_left(const Rows& a, std::int64_t rows, std::int64_t depth, std::byte* panels) {
  pack<true>(a, rows, depth, panels);
}

void pack_right(const Rows& b, std::int64_t columns, std::int64_t depth, std::byte* panels) {
  pack<false>(b, columns, depth, panels);
}

void multiply(const Product& p) {
  const std::size_t bytes = panel_bytes(p.depth);
  const auto panel = [](const std::byte* b) { return reinterpret_cast<const std::uint32_t*>(b); };
  Extent e{.rows = 0,
           .columns = 0,
           .tall = p.rows <= side ? side : panel_side,
           .wide = p.rows <= side ? 2 * panel_side : panel_side};
  for (std::int64_t j = 0; j < p.columns; j += e.wide) {
    e.columns = p.columns - j < e.wide ? p.columns - j : e.wide;
    const std::byte* const b = p.b + static_cast<std::size_t>(j / panel_side) * bytes;
    const std::byte* const next = e.columns > panel_side ? b + bytes : b;
    const bool right_fit = is_fit(panel(b), p.depth) && is_fit(panel(next), p.depth);
    const std::byte* a = p.a;
    for (std::int64_t i = 0; i < p.rows; i += panel_side, a += bytes) {
      e.rows = p.rows - i < e.tall ? p.rows - i : e.tall;
      float* const c = p.c + i * p.c_step + j;
      const Block block{.a = panel(a),
                        .b = {panel(b), panel(next)},
                        .steps = (p.depth + step_depth - 1) / step_depth,
                        .start = p.add ? c : (p.bias != nullptr ? p.bias + j : nullptr),
                        .start_step = p.add ? p.c_step : 0,
                        .c = c,
                        .c_step = p.c_step};
      if (!right_fit || !is_fit(block.a, p.depth))
        run_apart(block, e, p.depth);
      else
        e.whole() ? run(block, e) : run_edge(block, e);
    }
  }
}

}  // namespace unroll::detail::amx

#else

namespace unroll::detail::amx {
bool available() { return false; }
Tiles::Tiles() = default;
Tiles::~Tiles() = default;
void pack_left(const Rows&, std::int64_t, std::int64_t, std::byte*) {}
void pack_right(const Rows&, std::int64_t, std::int64_t, std::byte*) {}
void multiply(const Product&) {}
}  // namespace unroll::detail::amx

#endif
