// Compiled for a processor that has tiles, whatever the rest is compiled for: it includes nothing
// whose inline functions others share, and runs only where available() says so.
#include <unroll/ops/amx_panel.h>

#if defined(UNROLL_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace unroll::detail::amx {
namespace {

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

template <int Parts>
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
  constexpr std::int64_t step = step_size(Parts);
  for (std::int64_t s = p.steps; s > 0; --s, a += step, b += step) {
    if constexpr (Parts == 1) {
      left(0), right(0), product();
    } else {
      left(0), right(2), product();
      right(1), product();
      left(1), product();
      right(0), product();
      left(2), product();
      left(0), product();
    }
  }
  store_block(p, side, side * p.c_step);
}

template <int Parts>
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
  constexpr std::int64_t step = step_size(Parts);
  for (std::int64_t s = p.steps; s > 0; --s, a += step, b += step, next += step) {
    if constexpr (Parts == 1) {
      left(0), product(0);
    } else {
      left(0), product(2), product(1);
      left(1), product(1), product(0);
      left(2), product(0);
      left(0), product(0);
    }
  }
  store_block(p, side, 2 * side);
}

// Rows and columns of C that there are, of the block that a kernel makes.
struct Extent {
  std::int64_t rows, columns, tall, wide;
  bool whole() const { return rows == tall && columns == wide; }
};

template <int Parts>
void run(const Block& block, const Extent& e) {
  asm volatile("" ::: "memory");  // what the tiles are about to read must have been written
  e.tall == side ? block_16x64<Parts>(block) : block_32x32<Parts>(block);
}

// Where C ends before the block does: by way of memory of its own.
template <int Parts>
[[gnu::noinline]] void run_edge(const Block& block, const Extent& e) {
  alignas(64) float own[panel_side * panel_side];
  const bool starts = block.start != nullptr;
  if (starts)
    for (std::int64_t r = 0; r < e.tall; ++r)
      for (std::int64_t i = 0; i < e.wide; ++i)
        own[r * e.wide + i] =
            r < e.rows && i < e.columns ? block.start[r * block.start_step + i] : 0.0F;
  run<Parts>({.a = block.a,
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
    unpack<true>(block.a + s * step_size(3), a);
    unpack<false>(block.b[0] + s * step_size(3), b);
    for (std::int64_t r = 0; r < e.rows; ++r)
      for (std::int64_t k = 0; k < step_depth; ++k)
        for (std::int64_t j = 0; j < panel_side; ++j) sums[r][j] += a[r][k] * b[k][j];
  }
  for (std::int64_t r = 0; r < e.rows; ++r)
    for (std::int64_t j = 0; j < e.columns; ++j) block.c[r * block.c_step + j] = sums[r][j];
}

// Where some panel is not fit, of three parts: each one of B by itself, so that those which are fit
// go over tiles whatever lies beside them.
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
    is_fit(block.a, depth, 3) && is_fit(b, depth, 3) ? run_edge<3>(one, extent)
                                                     : run_unfit(one, extent);
  }
}

template <int Parts>
void multiply(const Product& p) {
  const std::size_t bytes = panel_bytes(p.depth, Parts);
  const auto panel = [](const std::byte* b) { return reinterpret_cast<const std::uint32_t*>(b); };
  Extent e{.rows = 0,
           .columns = 0,
           .tall = p.rows <= side ? side : panel_side,
           .wide = p.rows <= side ? 2 * panel_side : panel_side};
  for (std::int64_t j = 0; j < p.columns; j += e.wide) {
    e.columns = p.columns - j < e.wide ? p.columns - j : e.wide;
    const std::byte* const b = p.b + static_cast<std::size_t>(j / panel_side) * bytes;
    const std::byte* const next = e.columns > panel_side ? b + bytes : b;
    const bool right_fit = is_fit(panel(b), p.depth, Parts) && is_fit(panel(next), p.depth, Parts);
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
      if (!right_fit || !is_fit(block.a, p.depth, Parts))
        run_apart(block, e, p.depth);
      else
        e.whole() ? run<Parts>(block, e) : run_edge<Parts>(block, e);
    }
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

void multiply(const Product& p) { p.parts == 1 ? multiply<1>(p) : multiply<3>(p); }

}  // namespace unroll::detail::amx

#else

namespace unroll::detail::amx {
bool available() { return false; }
Tiles::Tiles() = default;
Tiles::~Tiles() = default;
void multiply(const Product&) {}
}  // namespace unroll::detail::amx

#endif
