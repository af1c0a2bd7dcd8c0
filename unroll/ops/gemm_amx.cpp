#include <unroll/ops/amx.h>
#include <unroll/ops/gemm_amx.h>

#include <algorithm>

namespace unroll::detail {
namespace {

using amx::panel_bytes;
using amx::panel_side;

// The sum is made a slice of k at a time, for which columns of B are laid out, then so many rows of
// A, again and again. Both stay in the second-level cache (two megabytes on
// processors with tiles) until all is multiplied with all.
constexpr std::int64_t most_rows = 128, most_columns = 512, most_depth = 256;

std::int64_t panels(std::int64_t rows) { return (rows + panel_side - 1) / panel_side; }

int parts(const Gemm& g) { return g.bf16 ? 1 : 3; }

struct Blocking {
  std::int64_t rows, columns, depth;
  int parts;
  // Bytes that A and B take at a time.
  std::size_t left() const { return bytes(rows); }
  std::size_t right() const { return bytes(columns); }

 private:
  std::size_t bytes(std::int64_t side) const {
    return static_cast<std::size_t>(panels(side)) * panel_bytes(depth, parts);
  }
};

Blocking blocking(const Gemm& g) {
  const auto within = [&](std::int64_t rows, std::int64_t columns, std::int64_t depth) -> Blocking {
    return {std::min(rows, g.m), std::min(columns, g.n), std::min(depth, g.k), parts(g)};
  };
  // A few rows leave room for deep panels: C is then read and written less often. Those of B are
  // used once, while they are in the cache.
  if (g.m <= panel_side) return within(panel_side, 2 * panel_side, 8 * most_depth);
  if (g.m <= 2 * panel_side) return within(2 * panel_side, 4 * panel_side, most_depth);
  // A small C stays in the cache however often it is read and written: it wants few rows, and
  // panels not much larger than itself.
  if (!g.bf16 && g.m * g.n <= (1 << 18)) {
    const std::int64_t depth = 24576 / g.n / amx::step_depth * amx::step_depth;
    return within(most_rows / 2, most_columns, std::clamp<std::int64_t>(depth, 96, most_depth));
  }
  // One part of three is a third of the bytes.
  return within(most_rows, most_columns, g.bf16 ? 2 * most_depth : most_depth);
}

// f(k, depth) for each slice.
template <class F>
void over_slices(const Gemm& g, const F& f) {
  const std::int64_t most = blocking(g).depth;
  for (std::int64_t k = 0; k < g.k; k += most) f(k, std::min(most, g.k - k));
}

amx::Rows left(const Gemm& g, const float* a, std::int64_t row, std::int64_t k) {
  return g.transpose_a ? amx::Rows::across(a + k * g.m + row, g.m)
                       : amx::Rows::along(a + row * g.k + k, g.k);
}

amx::Rows right(const Gemm& g, const float* b, std::int64_t column, std::int64_t k) {
  const std::int64_t ldb = g.ldb != 0 ? g.ldb : (g.transpose_b ? g.k : g.n);
  return g.transpose_b ? amx::Rows::along(b + column * ldb + k, ldb)
                       : amx::Rows::across(b + k * ldb + column, ldb);
}

// What some columns of B, laid out for the slice at k, add to some rows of C.
struct Slice {
  Span rows, columns;
  std::int64_t k = 0, depth = 0;
  bool has_left = false;  ///< the rows of A, which go into the panels together, are there already
};
void multiply_slice(const Gemm& g, const Slice& slice, const float* a, const std::byte* b,
                    const float* bias, float* c, std::byte* left_panels) {
  const std::int64_t most = blocking(g).rows;
  for (std::int64_t i = slice.rows.begin; i < slice.rows.end; i += most) {
    const std::int64_t rows = std::min(most, slice.rows.end - i);
    if (!slice.has_left)
      amx::pack_left(left(g, a, i, slice.k), rows, slice.depth, parts(g), left_panels);
    amx::multiply({.rows = rows,
                   .columns = slice.columns.end - slice.columns.begin,
                   .depth = slice.depth,
                   .parts = parts(g),
                   .a = left_panels,
                   .b = b,
                   .bias = g.bias ? bias + slice.columns.begin : nullptr,
                   .add = g.accumulate || slice.k > 0,
                   .c = c + i * g.n + slice.columns.begin,
                   .c_step = g.n});
  }
}

}  // namespace

bool is_amx(const Gemm& g) {
  // A multiplication on tiles takes half of the time that the backend's takes, laying a number out
  // as long as 38 on tiles. Of few rows B is laid out beforehand as a rule. Tiles are whole, and
  // below so many multiplications calls cost more than they save.
  constexpr std::int64_t rows = 16, depth = 32, multiplications = 1 << 18, laid_out = 38;
  if (g.batch != 1 || g.m < rows || g.k < depth || g.m * g.n * g.k < multiplications) return false;
  const bool few = g.m <= panel_side;
  const std::int64_t on_tiles =
      (g.m == rows ? rows : panels(g.m) * panel_side) * panels(g.n) * panel_side;
  return on_tiles + laid_out * (g.m + (few ? 0 : g.n)) < 2 * g.m * g.n && amx::available();
}

std::size_t amx_workspace(const Gemm& g) {
  const Blocking most = blocking(g);
  return most.left() + most.right();
}

std::size_t amx_packed_workspace(const Gemm& g) { return blocking(g).left(); }

void gemm_amx(const Gemm& g, Span rows, Span columns, const float* a, const float* b,
              const float* bias, float* c, std::byte* work) {
  const Blocking most = blocking(g);
  std::byte* const packed = work + most.left();
  const amx::Tiles tiles;
  const bool few = rows.end - rows.begin <= most.rows;
  over_slices(g, [&](std::int64_t k, std::int64_t depth) {
    for (std::int64_t j = columns.begin; j < columns.end; j += most.columns) {
      const Span some{j, std::min(columns.end, j + most.columns)};
      amx::pack_right(right(g, b, j, k), some.end - j, depth, parts(g), packed);
      multiply_slice(g, {rows, some, k, depth, few && j > columns.begin}, a, packed, bias, c, work);
    }
  });
}

std::size_t amx_packed_bytes(const Gemm& g) {
  std::size_t sum = 0;
  over_slices(g, [&](std::int64_t, std::int64_t depth) {
    sum += static_cast<std::size_t>(panels(g.n)) * panel_bytes(depth, parts(g));
  });
  return sum;
}

void pack_amx(const Gemm& g, const float* b, std::byte* packed) {
  over_slices(g, [&](std::int64_t k, std::int64_t depth) {
    amx::pack_right(right(g, b, 0, k), g.n, depth, parts(g), packed);
    packed += static_cast<std::size_t>(panels(g.n)) * panel_bytes(depth, parts(g));
  });
}

void gemm_amx_packed(const Gemm& g, Span columns, const float* a, const std::byte* packed,
                     const float* bias, float* c, std::byte* work) {
  const amx::Tiles tiles;
  over_slices(g, [&](std::int64_t k, std::int64_t depth) {
    const std::byte* const b = packed + static_cast<std::size_t>(columns.begin / panel_side) *
                                            panel_bytes(depth, parts(g));
    multiply_slice(g, {{0, g.m}, columns, k, depth, false}, a, b, bias, c, work);
    packed += static_cast<std::size_t>(panels(g.n)) * panel_bytes(depth, parts(g));
  });
}

}  // namespace unroll::detail
