#pragma once

#include <unroll/graph/memory.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/lane_loops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace unroll::detail {

/// Sizes of the recurrence: `heads` states of [size, size] a row of the batch, each computed by
/// itself; time is cut into chunks at whose beginnings a state is kept.
struct WkvShape {
  std::int64_t steps, batch, heads, size;

  static constexpr std::int64_t chunk = 32;
  std::int64_t kept() const { return steps == 0 ? 0 : (steps - 1) / chunk; }
  std::int64_t square() const { return size * size; }
  std::int64_t channels() const { return heads * size; }
  /// Of step t of `state` (a number of row and head): its first channel.
  std::int64_t at(std::int64_t t, std::int64_t state) const {
    return t * batch * channels() + state * size;
  }

  /// f(number of the state: row * heads + head).
  template <class F>
  void over_states(double operations, const F& f) const {
    parallel_for(
        batch * heads, 1,
        operations * static_cast<double>(steps * batch) * static_cast<double>(heads * square()),
        [&](std::int64_t state, std::int64_t) { f(state); });
  }
};

template <class T>
struct WkvInputs {
  const T *r, *k, *v, *w;  ///< [T, B, C]
  const T* u;              ///< [heads, size]
  const T* s0;             ///< [B, heads, size, size]
};

/// sum_i r_i u_i k_i: what the present step's value is weighted with.
template <class T>
T wkv_bonus(const WkvShape& s, const WkvInputs<T>& in, std::int64_t at, std::int64_t state) {
  const T* u = in.u + state % s.heads * s.size;
  return static_cast<T>(simd::sum_of<T>(
      s.size, [&](const auto& lane) { return lane(in.r + at) * lane(u) * lane(in.k + at); }));
}

/// y [T, B, C]; last [B, heads, size, size] is the state on its way and in the end the last one;
/// kept [chunks - 1, B, heads, size, size] are those ahead of every chunk but the first.
template <class T>
UNROLL_FLATTEN void wkv6(const WkvShape& s, const WkvInputs<T>& in, T* y, T* last, T* kept) {
  using L = simd::Lanes<T>;
  namespace hn = simd::hn;
  s.over_states(3, [&](std::int64_t number) {
    T* state = last + number * s.square();
    std::copy_n(in.s0 + number * s.square(), s.square(), state);
    for (std::int64_t t = 0; t < s.steps; ++t) {
      if (t > 0 && t % s.chunk == 0)
        std::copy_n(state, s.square(),
                    kept + ((t / s.chunk - 1) * s.batch * s.heads + number) * s.square());
      const std::int64_t at = s.at(t, number);
      const T *r = in.r + at, *k = in.k + at, *w = in.w + at;
      const L bonus(wkv_bonus(s, in, at, number));
      // A vector of values' columns at a time, so that no sum runs across lanes.
      simd::for_lanes<T>(s.size, [&](const auto& lane) {
        const L v = lane(in.v + at);
        L even = bonus * v, odd;
        const auto step = [&](std::int64_t i, L& sum) {
          T* row = state + i * s.size;
          const L before = lane(row);
          sum = hn::MulAdd(L(r[i]).v, before.v, sum.v);
          lane.store(row, L(hn::MulAdd(L(w[i]).v, before.v, (L(k[i]) * v).v)));
        };
        std::int64_t i = 0;
        for (; i + 2 <= s.size; i += 2) {
          step(i, even);
          step(i + 1, odd);
        }
        if (i < s.size) step(i, even);
        lane.store(y + at, even + odd);
      });
    }
  });
}

template <class T>
struct WkvGradients {
  T *r, *k, *v, *w;  ///< [T, B, C]
  T* u;              ///< [B, heads, size]: to be summed over the batch
  T* s0;             ///< [B, heads, size, size]
};

/// Elements of scratch for one state: see wkv6_backward().
template <class T>
std::int64_t wkv_scratch(const WkvShape& s) {
  return (WkvShape::chunk + 1) * s.square() +
         s.size * static_cast<std::int64_t>(simd::Lanes<T>::count);
}

template <class T>
void transpose_square(std::int64_t n, const T* from, T* to) {
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) to[j * n + i] = from[i * n + j];
}

/// Walks back by chunks: the states of a chunk are computed again from the one kept ahead of it.
/// States and their gradients are transposed here, columns by k: three of the four sums that a step
/// takes then run down the rows. g [T, B, C] is the gradient of y, g_last that of the last state or
/// nullptr.
template <class T>
UNROLL_FLATTEN void wkv6_backward(const WkvShape& s, const WkvInputs<T>& in, const T* kept,
                                  const T* g, const T* g_last, const WkvGradients<T>& out) {
  using L = simd::Lanes<T>;
  namespace hn = simd::hn;
  constexpr std::int64_t lanes = L::count;
  s.over_states(9, [&](std::int64_t number) {
    const std::int64_t n = s.size, square = s.square();
    std::vector<T, CachedAllocator<T>> scratch(static_cast<std::size_t>(wkv_scratch<T>(s)));
    T* states = scratch.data();         // [chunk, size, size]: the state ahead of each step
    T* ds = states + s.chunk * square;  // the gradient of the state behind the step
    T* dv_lanes = ds + square;          // [size, lanes]
    if (g_last != nullptr) {
      transpose_square(n, g_last + number * square, ds);
    } else {
      std::fill_n(ds, square, T(0));
    }
    const T* u = in.u + number % s.heads * n;
    T* du = out.u + number * n;
    std::fill_n(du, n, T(0));
    for (std::int64_t c = s.kept(); c >= 0; --c) {
      const std::int64_t begin = c * s.chunk, count = std::min(s.chunk, s.steps - begin);
      const std::int64_t place = ((c - 1) * s.batch * s.heads + number) * square;
      transpose_square(n, c == 0 ? in.s0 + number * square : kept + place, states);
      for (std::int64_t step = 0; step + 1 < count; ++step) {
        const std::int64_t at = s.at(begin + step, number);
        const T *from = states + step * square, *v = in.v + at;
        simd::for_lanes<T>(n, [&](const auto& lane) {
          const L w = lane(in.w + at), k = lane(in.k + at);
          for (std::int64_t j = 0; j < n; ++j)
            lane.store(states + (step + 1) * square + j * n,
                       L(hn::MulAdd(w.v, lane(from + j * n).v, (k * L(v[j])).v)));
        });
      }
      for (std::int64_t step = count; step-- > 0;) {
        const std::int64_t at = s.at(begin + step, number);
        const T *state = states + step * square, *v = in.v + at, *gy = g + at;
        const L value(static_cast<T>(
            simd::sum_of<T>(n, [&](const auto& lane) { return lane(gy) * lane(v); })));
        std::fill_n(dv_lanes, n * lanes, T(0));
        simd::for_lanes<T>(n, [&](const auto& lane) {
          const L r = lane(in.r + at), k = lane(in.k + at), w = lane(in.w + at);
          const L now = value * lane(u);
          L dr = now * k, dk = now * r, dw;
          for (std::int64_t j = 0; j < n; ++j) {
            T* row = ds + j * n;
            const L d = lane(row), before = lane(state + j * n), gj(gy[j]);
            dr = hn::MulAdd(gj.v, before.v, dr.v);
            dk = hn::MulAdd(L(v[j]).v, d.v, dk.v);
            dw = hn::MulAdd(d.v, before.v, dw.v);
            L(hn::MulAdd(d.v, k.v, L::load(dv_lanes + j * lanes).v)).store(dv_lanes + j * lanes);
            lane.store(row, L(hn::MulAdd(w.v, d.v, (r * gj).v)));
          }
          lane.store(out.r + at, dr);
          lane.store(out.k + at, dk);
          lane.store(out.w + at, dw);
          lane.store(du, L(hn::MulAdd((r * k).v, value.v, lane(du).v)));
        });
        const T bonus = wkv_bonus(s, in, at, number);
        for (std::int64_t j = 0; j < n; ++j)
          out.v[at + j] = gy[j] * bonus + hn::GetLane(hn::SumOfLanes(
                                              simd::Tag<T>(), L::load(dv_lanes + j * lanes).v));
      }
    }
    transpose_square(n, ds, out.s0 + number * square);
  });
}

}  // namespace unroll::detail
