#pragma once

#include <unroll/graph/tensor.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/lane_loops.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace unroll::detail {

/// A reduction seen as three axes: the middle one goes.
struct ReduceShape {
  std::int64_t outer = 1, count = 1, inner = 1;

  static ReduceShape along(const Shape& shape, int axis) {
    ReduceShape r{.count = shape[axis]};
    for (int i = 0; i < axis; ++i) r.outer *= shape[i];
    for (int i = axis + 1; i < shape.rank(); ++i) r.inner *= shape[i];
    return r;
  }
};

/// Columns that one kernel call works on: its accumulators stay in the nearest cache.
inline constexpr std::int64_t column_tile = 512;

/// How sum() goes through memory.
template <class T>
struct SumKernel {
  using Accumulator = double;
  static Accumulator run(const T* x, std::int64_t n) {
    return simd::sum_of<T>(n, [x](const auto& at) { return at(x); });
  }
  // The sums of `width` columns over `rows` rows that are `step` apart. Rows go four at a time
  // through partial sums in T, those to double every `block` rows.
  static void columns(const T* x, std::int64_t rows, std::int64_t step, std::int64_t width,
                      Accumulator* total) {
    constexpr std::int64_t block = 64;
    T part[column_tile];
    std::fill_n(total, width, 0.0);
    for (std::int64_t begin = 0; begin < rows; begin += block) {
      const std::int64_t end = std::min(rows, begin + block);
      std::fill_n(part, width, T(0));
      std::int64_t r = begin;
      for (; r + 4 <= end; r += 4) {
        const T *a = x + r * step, *b = a + step, *c = b + step, *d = c + step;
        for (std::int64_t j = 0; j < width; ++j) part[j] += (a[j] + b[j]) + (c[j] + d[j]);
      }
      for (; r < end; ++r)
        for (std::int64_t j = 0; j < width; ++j) part[j] += x[r * step + j];
      for (std::int64_t j = 0; j < width; ++j) total[j] += static_cast<double>(part[j]);
    }
  }
  static Accumulator join(Accumulator a, Accumulator b) { return a + b; }
};

template <class T>
struct MaxKernel {
  using Accumulator = T;
  static Accumulator run(const T* x, std::int64_t n) {
    return simd::max_of<T>(n, [x](const auto& at) { return at(x); });
  }
  static void columns(const T* x, std::int64_t rows, std::int64_t step, std::int64_t width,
                      Accumulator* top) {
    std::copy_n(x, width, top);
    for (std::int64_t r = 1; r < rows; ++r)
      simd::for_lanes<T>(width, [&](const auto& at) {
        at.store(top, simd::max_or_nan<T>(at(top), at(x + r * step)));
      });
  }
  static Accumulator join(Accumulator a, Accumulator b) { return b > a || b != b ? b : a; }
};

/// Reduces x to out [outer, inner]. Long reductions are cut into chunks whose results are joined
/// in order; how depends on the sizes alone.
template <class Kernel, class T>
void reduce(const T* x, const ReduceShape& r, T* out) {
  using Accumulator = typename Kernel::Accumulator;
  constexpr std::int64_t piece = 16384;
  const auto work = 6.0 * static_cast<double>(r.outer * r.count * r.inner);
  const std::int64_t rows = std::max<std::int64_t>(64, piece / r.inner / 64 * 64);
  const std::int64_t chunks = r.count <= 2 * rows ? 1 : (r.count + rows - 1) / rows;
  const std::int64_t rows_a_chunk = chunks == 1 ? r.count : rows;
  const auto chunk = [&](std::int64_t n, auto* into) {
    const std::int64_t o = n / chunks, begin = n % chunks * rows_a_chunk;
    const std::int64_t height = std::min(rows_a_chunk, r.count - begin);
    const T* from = x + (o * r.count + begin) * r.inner;
    if (r.inner == 1) {
      using Into = std::remove_pointer_t<decltype(into)>;
      into[n] = static_cast<Into>(Kernel::run(from, height));
      return;
    }
    Accumulator tile[column_tile];
    for (std::int64_t j = 0; j < r.inner; j += column_tile) {
      const std::int64_t width = std::min(column_tile, r.inner - j);
      Kernel::columns(from + j, height, r.inner, width, tile);
      std::copy_n(tile, width, into + n * r.inner + j);
    }
  };
  const std::int64_t tasks = r.outer * chunks;
  const std::int64_t tasks_a_piece =
      std::max<std::int64_t>(1, piece / std::max<std::int64_t>(1, rows_a_chunk * r.inner));
  if (chunks == 1) {
    parallel_for(tasks, tasks_a_piece, work, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) chunk(n, out);
    });
    return;
  }
  Tensor scratch = Tensor::empty({tasks, r.inner}, dtype_of<Accumulator>());
  auto* parts = scratch.mutable_ptr<Accumulator>();
  parallel_for(tasks, tasks_a_piece, work, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) chunk(n, parts);
  });
  for (std::int64_t o = 0; o < r.outer; ++o)
    for (std::int64_t j = 0; j < r.inner; ++j) {
      const Accumulator* part = parts + o * chunks * r.inner + j;
      Accumulator all = part[0];
      for (std::int64_t c = 1; c < chunks; ++c) all = Kernel::join(all, part[c * r.inner]);
      out[o * r.inner + j] = static_cast<T>(all);
    }
}

/// log(sum(exp(x))) along the middle axis.
template <class T>
void logsumexp(const T* x, const ReduceShape& r, T* out) {
  using L = simd::Lanes<T>;
  const auto work = 16.0 * static_cast<double>(r.outer * r.count * r.inner);
  const std::int64_t piece = std::max<std::int64_t>(1, 4096 / (r.count * r.inner));
  parallel_for(r.outer, piece, work, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      const T* from = x + o * r.count * r.inner;
      if (r.inner == 1) {
        const simd::LogSum<T> sum =
            simd::log_sum<T>(r.count, [from](const auto& at) { return at(from); });
        out[o] = sum.top + sum.rest;
        continue;
      }
      simd::for_lanes<T>(r.inner, [&](const auto& at) {
        L top = at(from);
        for (std::int64_t k = 1; k < r.count; ++k)
          top = simd::max_or_nan<T>(top, at(from + k * r.inner));
        L sum(0);
        for (std::int64_t k = 0; k < r.count; ++k) sum = sum + exp(at(from + k * r.inner) - top);
        // Where the largest is infinite or NaN, so is the result.
        const L limit(std::numeric_limits<T>::max());
        at.store(out + o * r.inner, where<T>(abs(top) <= limit, top + log(sum), top));
      });
    }
  });
}

/// The place of the largest element along the middle axis, the first of equal ones.
template <class T>
void argmax(const T* x, const ReduceShape& r, std::int64_t* out) {
  const auto work = 6.0 * static_cast<double>(r.outer * r.count * r.inner);
  const std::int64_t piece = std::max<std::int64_t>(1, 16384 / (r.count * r.inner));
  parallel_for(r.outer, piece, work, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      const T* from = x + o * r.count * r.inner;
      if (r.inner == 1) {
        const T top = MaxKernel<T>::run(from, r.count);
        const T* place = top != top ? std::find_if(from, from + r.count, [](T v) { return v != v; })
                                    : std::find(from, from + r.count, top);
        out[o] = place - from;
        continue;
      }
      for (std::int64_t j = 0; j < r.inner; ++j) {
        std::int64_t best = 0;
        for (std::int64_t k = 1; k < r.count; ++k) {
          const T value = from[k * r.inner + j], top = from[best * r.inner + j];
          if (value > top || (value != value && top == top)) best = k;
        }
        out[o * r.inner + j] = best;
      }
    }
  });
}

}  // namespace unroll::detail
