#include <unroll/ops/amx.h>
#include <unroll/ops/gemm_amx.h>

#include <algorithm>

namespace unroll::detail {
namespace {

using amx::panel_bytes;
using amx::panel_side;

// The sum is made a slice of k at a time, for which columns of B are laid out, then so many rows of
// A, again and again. Both stay in the second-level cache (two megabytes on processors with tiles)
// until all is multiplied with all.
constexpr std::int64_t most_rows = 128, most_columns = 512, usual_depth = 256;
// Numbers of A and of B in panels, six bytes each.
constexpr std::int64_t left_numbers = 24 << 10, right_numbers = most_columns * usual_depth;

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
  if (g.m <= panel_side) return within(panel_side, 2 * panel_side, 8 * usual_depth);
  if (g.m <= 2 * panel_side) return within(2 * panel_side, 4 * panel_side, usual_depth);
  if (!g.bf16 && g.transpose_a) {
    // Numbers that follow each other in depth are far apart: many would be in more pages than the
    // processor knows at a time. A small C stays in the cache however often it is read and written.
    if (g.m * g.n <= (1 << 18)) return within(most_rows, most_columns, 96);
  } else if (!g.bf16) {
    // As deep as the cache allows: C is then read and written less often.
    const auto whole = [](std::int64_t numbers) { return numbers / panel_side * panel_side; };
    const std::int64_t wide = panels(std::min(g.n, most_columns)) * panel_side,
                       depth = std::min(g.k, whole(right_numbers / wide));
    return within(std::clamp(whole(left_numbers / depth), panel_side, most_rows), most_columns,
                  depth);
  }
  // One part of three is a third of the bytes.
  return within(most_rows, most_columns, g.bf16 ? 2 * usual_depth : usual_depth);
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

// Rows as they lie in memory, so many of them and so deep.
amx::Soon soon(const amx::Rows& x, std::int64_t rows, std::int64_t depth) {
  if (x.depth_step == 1) return {x.data, x.row, rows, depth};
  return {x.data, x.depth_step, depth, rows};
}

// f of rows begin..end of x, `width` numbers each, one behind the other.
void map_rows(GemmFunctions::Map f, const float* x, std::int64_t step, std::int64_t rows,
              std::int64_t width, float* y) {
  for (std::int64_t i = 0; i < rows; ++i, x += step, y += width) {
    for (std::int64_t j = 0; j < width; j += 16) __builtin_prefetch(x + step + j);
    f(x, y, width);
  }
}

// What some columns of B, laid out for the slice at k, add to some rows of C.
struct Slice {
  Span rows, columns;
  std::int64_t k = 0, depth = 0;
  bool has_left = false;  ///< the rows of A, which go into the panels together, are there already
  amx::Soon next_left, next_right;  ///< behind it
};
void multiply_slice(const Gemm& g, const GemmFunctions& f, const Slice& slice, const float* a,
                    const std::byte* b, const float* bias, float* c, std::byte* left_panels,
                    float* mapped) {
  const std::int64_t most = blocking(g).rows, columns = slice.columns.end - slice.columns.begin;
  for (std::int64_t i = slice.rows.begin; i < slice.rows.end; i += most) {
    const std::int64_t rows = std::min(most, slice.rows.end - i);
    amx::Rows from = left(g, a, i, slice.k);
    if (f.of_a != nullptr && !slice.has_left) {
      map_rows(f.of_a, from.data, from.row, rows, slice.depth, mapped);
      from = amx::Rows::along(mapped, slice.depth);
    }
    if (!slice.has_left) amx::pack_left(from, rows, slice.depth, parts(g), left_panels);
    const std::int64_t behind = i + rows, more = std::min(most, slice.rows.end - behind);
    const bool last = more == 0;
    const amx::Soon ahead =
        last ? slice.next_left : soon(left(g, a, behind, slice.k), more, slice.depth);
    amx::multiply({.rows = rows,
                   .columns = columns,
                   .depth = slice.depth,
                   .parts = parts(g),
                   .a = left_panels,
                   .b = b,
                   .bias = g.bias ? bias + slice.columns.begin : nullptr,
                   .add = g.accumulate || slice.k > 0,
                   .c = c + i * g.n + slice.columns.begin,
                   .c_step = g.n,
                   .soon = {ahead, last ? slice.next_right : amx::Soon()}});
    if (f.of_c == nullptr || slice.k + slice.depth < g.k) continue;
    for (std::int64_t row = i; row < i + rows; ++row) {
      const std::int64_t at = row * g.n + slice.columns.begin;
      for (std::int64_t j = 0; j < columns; j += 16) __builtin_prefetch(f.gate + at + g.n + j);
      f.of_c(f.gate + at, c + at, c + at, columns);
    }
  }
}

}  // namespace

bool is_amx(const Gemm& g) {
  // A multiplication on tiles takes half of the time that the backend's takes, laying a number out
  // as long as 38 on tiles. Of few rows B is laid out beforehand as a rule. Tiles are whole, and
  // below so many multiplications calls cost more than they save.
  constexpr std::int64_t rows = 16, depth = 32, multiplications = 1 << 18, laid_out = 38;
  if (g.batch != 1 || g.m < rows || g.k < depth || g.m * g.n * g.k < multiplications) return false;
  // Of bf16 deeper than this oneDNN sums in an order that depends on how many rows and columns
  // there are, and on whether B is packed.
  if (g.bf16 && g.k > 1024) return amx::available();
  const bool few = g.m <= panel_side;
  const std::int64_t on_tiles =
      (g.m == rows ? rows : panels(g.m) * panel_side) * panels(g.n) * panel_side;
  return on_tiles + laid_out * (g.m + (few ? 0 : g.n)) < 2 * g.m * g.n && amx::available();
}

bool reads_once(const Gemm& g) { return g.n <= blocking(g).columns; }

std::size_t amx_workspace(const Gemm& g, const GemmFunctions& functions) {
  const Blocking most = blocking(g);
  const std::int64_t mapped = std::max(functions.of_a != nullptr ? most.rows : 0,
                                       functions.of_b != nullptr ? most.columns : 0);
  return most.left() + most.right() +
         static_cast<std::size_t>(mapped * most.depth) * sizeof(float) / 64 * 64 + 64;
}

std::size_t amx_packed_workspace(const Gemm& g) { return blocking(g).left(); }

void gemm_amx(const Gemm& g, Span rows, Span columns, const float* a, const float* b,
              const float* bias, float* c, std::byte* work, const GemmFunctions& f) {
  const Blocking most = blocking(g);
  std::byte* const packed = work + most.left();
  auto* const mapped = reinterpret_cast<float*>(packed + most.right());
  const amx::Tiles tiles;
  const bool one_block = rows.end - rows.begin <= most.rows;  // of A, for all columns
  const auto soon_left = [&](std::int64_t k) {
    return soon(left(g, a, rows.begin, k), std::min(most.rows, rows.end - rows.begin),
                std::min(most.depth, g.k - k));
  };
  const auto soon_right = [&](std::int64_t j, std::int64_t k) {
    return soon(right(g, b, j, k), std::min(most.columns, columns.end - j),
                std::min(most.depth, g.k - k));
  };
  over_slices(g, [&](std::int64_t k, std::int64_t depth) {
    for (std::int64_t j = columns.begin; j < columns.end; j += most.columns) {
      const Span some{j, std::min(columns.end, j + most.columns)};
      Slice slice{rows, some, k, depth, one_block && j > columns.begin, {}, {}};
      if (some.end < columns.end) {
        slice.next_right = soon_right(some.end, k);
        if (!one_block) slice.next_left = soon_left(k);
      } else if (k + depth < g.k) {
        slice.next_right = soon_right(columns.begin, k + depth);
        slice.next_left = soon_left(k + depth);
      }
      amx::Rows from = right(g, b, j, k);
      if (f.of_b != nullptr) {
        map_rows(f.of_b, from.data, from.depth_step, depth, some.end - j, mapped);
        from = amx::Rows::across(mapped, some.end - j);
      }
      amx::pack_right(from, some.end - j, depth, parts(g), packed);
      multiply_slice(g, f, slice, a, packed, bias, c, work, mapped);
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
    Slice slice{{0, g.m}, columns, k, depth, false, {}, {}};
    if (k + depth < g.k)
      slice.next_left = soon(left(g, a, 0, k + depth), std::min(blocking(g).rows, g.m),
                             std::min(blocking(g).depth, g.k - k - depth));
    multiply_slice(g, {}, slice, a, b, bias, c, work, nullptr);
    packed += static_cast<std::size_t>(panels(g.n)) * panel_bytes(depth, parts(g));
  });
}

}  // namespace unroll::detail
