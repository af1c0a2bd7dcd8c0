// Compiled for a processor that has tiles, whatever the rest is compiled for: it includes nothing
// whose inline functions others share, and runs only where available() says so.
#include <unroll/ops/amx_panel.h>

#if defined(UNROLL_AMX) && defined(__linux__)
namespace unroll::detail::amx {
namespace {

struct alignas(64) Configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {side, side, side, side, side, side, side, side};
};
static_assert(sizeof(Configuration) == 64);

// A block of C: 32 x 32, or 16 x 64 where A has no more rows, which takes two panels of B.
struct Block {
  const std::uint32_t* a;
  const std::uint32_t* b[2];
  std::int64_t steps;
  const float* start;  // what to add to, or null
  std::int64_t start_step;
  float* c;
  std::int64_t c_step;
  const float* next;  // the block of C behind it, to be fetched meanwhile
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

// Memory answers while tiles multiply, if it is asked for few lines at a time, behind each product:
// many would stand in the way of the panels.
class Fetch {
 public:
  // What is wanted soon, in so many goes.
  Fetch(const Soon (&soon)[2], std::int64_t goes) {
    std::int64_t lines = 0;
    for (const Soon& s : soon) {
      lines += s.rows * ((s.width + side - 1) / side);
      if (s.rows > 0 && s.width > 0) soon_[count_++] = s;
    }
    lines_ = count_ > 0 ? (lines + goes - 1) / goes : 0;
  }
  // Rows of C's next block likewise.
  void block(const Block& p, std::int64_t goes) {
    row_ = p.next;
    step_ = p.c_step;
    rows_ = (panel_side + goes - 1) / goes;
    left_ = panel_side;
  }
  void some() {
    for (std::int64_t n = rows_ < left_ ? rows_ : left_; n > 0; --n, --left_, row_ += step_) {
      _mm_prefetch(row_, _MM_HINT_T0);
      _mm_prefetch(row_ + side, _MM_HINT_T0);
    }
    for (std::int64_t n = lines_; n > 0; --n) {
      Soon& s = soon_[count_ - 1];
      _mm_prefetch(s.first + at_, _MM_HINT_T1);
      if ((at_ += side) < s.width) continue;
      at_ = 0;
      s.first += s.step;
      if (--s.rows == 0 && --count_ == 0) {
        lines_ = 0;
        return;
      }
    }
  }

 private:
  const float* row_ = nullptr;
  std::int64_t step_ = 0, rows_ = 0, left_ = 0;
  Soon soon_[2];
  std::int64_t count_ = 0, lines_ = 0, at_ = 0;
};

template <int Parts>
constexpr std::int64_t products = Parts == 1 ? 1 : 6;

template <int Parts>
void block_32x32(const Block& p, Fetch& fetch) {
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
  fetch.block(p, p.steps * products<Parts>);
  const auto product = [&fetch] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    fetch.some();
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
void run(const Block& block, const Extent& e, Fetch& fetch) {
  asm volatile("" ::: "memory");  // what the tiles are about to read must have been written
  e.tall == side ? block_16x64<Parts>(block) : block_32x32<Parts>(block, fetch);
}

// Where C ends before the block does: by way of memory of its own.
template <int Parts>
[[gnu::noinline]] void run_edge(const Block& block, const Extent& e, Fetch& fetch) {
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
              .c_step = e.wide,
              .next = own},
             e, fetch);
  for (std::int64_t r = 0; r < e.rows; ++r)
    for (std::int64_t i = 0; i < e.columns; ++i)
      block.c[r * block.c_step + i] = own[r * e.wide + i];
}

template <int Parts>
void multiply(const Product& p) {
  const std::int64_t steps = (p.depth + step_depth - 1) / step_depth,
                     blocks = (p.rows + panel_side - 1) / panel_side *
                              ((p.columns + panel_side - 1) / panel_side);
  Fetch fetch(p.soon, blocks * steps * products<Parts>);
  const std::size_t bytes = panel_bytes(p.depth, Parts);
  const auto panel = [](const std::byte* b) { return reinterpret_cast<const std::uint32_t*>(b); };
  Extent e{.rows = 0,
           .columns = 0,
           .tall = p.rows <= side ? side : panel_side,
           .wide = p.rows <= side ? 2 * panel_side : panel_side};
  for (std::int64_t j = 0; j < p.columns; j += e.wide) {
    e.columns = p.columns - j < e.wide ? p.columns - j : e.wide;
    const std::byte* const b = p.b + static_cast<std::size_t>(j / panel_side) * bytes;
    const std::byte* const second = e.columns > panel_side ? b + bytes : b;
    const std::byte* a = p.a;
    for (std::int64_t i = 0; i < p.rows; i += panel_side, a += bytes) {
      e.rows = p.rows - i < e.tall ? p.rows - i : e.tall;
      float* const c = p.c + i * p.c_step + j;
      // Behind the last block of these columns others begin, behind all of them the next rows.
      const bool last = i + panel_side >= p.rows;
      const float* const next = !last                    ? c + panel_side * p.c_step
                                : j + e.wide < p.columns ? p.c + j + e.wide
                                                         : p.c + p.rows * p.c_step;
      const Block block{.a = panel(a),
                        .b = {panel(b), panel(second)},
                        .steps = steps,
                        .start = p.add ? c : (p.bias != nullptr ? p.bias + j : nullptr),
                        .start_step = p.add ? p.c_step : 0,
                        .c = c,
                        .c_step = p.c_step,
                        .next = next};
      e.whole() ? run<Parts>(block, e, fetch) : run_edge<Parts>(block, e, fetch);
    }
  }
}

}  // namespace

Tiles::Tiles() {
  static constexpr Configuration all_whole;
  _tile_loadconfig(&all_whole);
}

Tiles::~Tiles() { _tile_release(); }

void multiply(const Product& p) { p.parts == 1 ? multiply<1>(p) : multiply<3>(p); }

}  // namespace unroll::detail::amx

#else

namespace unroll::detail::amx {
Tiles::Tiles() = default;
Tiles::~Tiles() = default;
void multiply(const Product&) {}
}  // namespace unroll::detail::amx

#endif
