#pragma once

#include <unroll/graph/memory.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/lane_loops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace unroll::detail {

/// Sizes of a selective scan, and how it is cut: time into chunks at whose beginnings a state is
/// kept, each row of the batch into blocks of channels that are computed by themselves.
struct SelectiveShape {
  std::int64_t steps, batch, channels, states;

  static constexpr std::int64_t chunk = 16;   ///< its states fit the first cache, or nearly so
  static constexpr std::int64_t block = 256;  ///< of channels
  std::int64_t kept() const { return steps == 0 ? 0 : (steps - 1) / chunk; }
  std::int64_t blocks() const { return (channels + block - 1) / block; }
  std::int64_t state_size() const { return states * channels; }

  /// f(b, number of the block, its first channel, how many).
  template <class F>
  void over_blocks(double operations, const F& f) const {
    parallel_for(
        batch * blocks(), 1,
        operations * static_cast<double>(steps * batch) * static_cast<double>(state_size()),
        [&](std::int64_t piece, std::int64_t) {
          const std::int64_t first = piece % blocks() * block;
          f(piece / blocks(), piece % blocks(), first, std::min(block, channels - first));
        });
  }
};

template <class T>
struct SelectiveInputs {
  const T *x, *dt;  ///< [T, B, D]
  const T* a;       ///< [N, D]: transposed
  const T *b, *c;   ///< [T, B, N]
  const T* h0;      ///< [B, N, D]
};

/// y [T, B, D]; last [B, N, D] is the state on its way and in the end the last one; kept
/// [chunks - 1, B, N, D] are the states ahead of every chunk but the first.
template <class T>
UNROLL_FLATTEN void selective_scan(const SelectiveShape& s, const SelectiveInputs<T>& in, T* y,
                                   T* last, T* kept) {
  using L = simd::Lanes<T>;
  namespace hn = simd::hn;
  s.over_blocks(8, [&](std::int64_t b, std::int64_t, std::int64_t first, std::int64_t width) {
    T* state = last + b * s.state_size() + first;
    for (std::int64_t n = 0; n < s.states; ++n)
      std::copy_n(in.h0 + b * s.state_size() + n * s.channels + first, width,
                  state + n * s.channels);
    for (std::int64_t t = 0; t < s.steps; ++t) {
      if (t > 0 && t % s.chunk == 0)
        for (std::int64_t n = 0; n < s.states; ++n)
          std::copy_n(
              state + n * s.channels, width,
              kept + ((t / s.chunk - 1) * s.batch + b) * s.state_size() + first + n * s.channels);
      const std::int64_t row = t * s.batch + b, at_row = row * s.channels + first;
      const T *bt = in.b + row * s.states, *ct = in.c + row * s.states;
      simd::for_lanes<T>(width, [&](const auto& at) {
        const L dt = at(in.dt + at_row), fed = dt * at(in.x + at_row);
        L sum;
        for (std::int64_t n = 0; n < s.states; ++n) {
          T* h = state + n * s.channels;
          const L decay = simd::exp(dt * at(in.a + first + n * s.channels));
          const L next = hn::MulAdd(decay.v, at(h).v, (fed * L(bt[n])).v);
          at.store(h, next);
          sum = hn::MulAdd(next.v, L(ct[n]).v, sum.v);
        }
        at.store(y + at_row, sum);
      });
    }
  });
}

template <class T>
struct SelectiveGradients {
  T *x, *dt;  ///< [T, B, D]
  T* a;       ///< [B, N, D]: to be summed over the batch
  T *b, *c;   ///< [blocks, T, B, N]: to be summed over the blocks
  T* h0;      ///< [B, N, D]
};

/// Elements of scratch for one block: see selective_scan_backward().
template <class T>
std::int64_t selective_scratch(const SelectiveShape& s) {
  return (4 * s.chunk + 2) * s.states * static_cast<std::int64_t>(simd::Lanes<T>::count);
}

/// Walks back by chunks: the states of a chunk are computed again from the one kept ahead of it,
/// for a vector of channels at a time. g [T, B, D] is the gradient of y, g_last [B, N, D] that of
/// the last state or nullptr.
template <class T>
UNROLL_FLATTEN void selective_scan_backward(const SelectiveShape& s, const SelectiveInputs<T>& in,
                                            const T* kept, const T* g, const T* g_last,
                                            const SelectiveGradients<T>& out) {
  using L = simd::Lanes<T>;
  namespace hn = simd::hn;
  constexpr std::int64_t lanes = L::count;
  s.over_blocks(20, [&](std::int64_t b, std::int64_t number, std::int64_t first,
                        std::int64_t width) {
    const std::int64_t offset = b * s.state_size() + first, slot = s.states * lanes;
    // The gradient of the state on its way is kept where that of h0 ends up.
    T *carried = out.h0 + offset, *da = out.a + offset;
    for (std::int64_t n = 0; n < s.states; ++n) {
      T* row = carried + n * s.channels;
      if (g_last != nullptr) {
        std::copy_n(g_last + offset + n * s.channels, width, row);
      } else {
        std::fill_n(row, width, T(0));
      }
      std::fill_n(da + n * s.channels, width, T(0));
    }
    std::vector<T, CachedAllocator<T>> scratch(static_cast<std::size_t>(selective_scratch<T>(s)));
    T* states = scratch.data();                 // [chunk + 1, N, lanes]
    T* decays = states + (s.chunk + 1) * slot;  // [chunk, N, lanes]
    T* sums_b = decays + s.chunk * slot;        // [chunk, N, lanes]: over groups of channels
    T* sums_c = sums_b + s.chunk * slot;        // likewise
    T* da_chunk = sums_c + s.chunk * slot;      // [N, lanes]
    for (std::int64_t c = s.kept(); c >= 0; --c) {
      const std::int64_t begin = c * s.chunk, count = std::min(s.chunk, s.steps - begin);
      const T* start = c == 0 ? in.h0 + offset : kept + (c - 1) * s.batch * s.state_size() + offset;
      std::fill(sums_b, sums_b + 2 * s.chunk * slot, T(0));
      simd::for_lanes<T>(width, [&](const auto& at) {
        for (std::int64_t n = 0; n < s.states; ++n)
          at(start + n * s.channels).store(states + n * lanes);
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t row = (begin + i) * s.batch + b, at_row = row * s.channels + first;
          const L dt = at(in.dt + at_row), fed = dt * at(in.x + at_row);
          const T *bt = in.b + row * s.states, *from = states + i * slot;
          for (std::int64_t n = 0; n < s.states; ++n) {
            const L decay = simd::exp(dt * at(in.a + first + n * s.channels));
            decay.store(decays + i * slot + n * lanes);
            L(hn::MulAdd(decay.v, L::load(from + n * lanes).v, (fed * L(bt[n])).v))
                .store(states + (i + 1) * slot + n * lanes);
          }
        }
        std::fill_n(da_chunk, slot, T(0));
        for (std::int64_t i = count; i-- > 0;) {
          const std::int64_t row = (begin + i) * s.batch + b, at_row = row * s.channels + first;
          const L dt = at(in.dt + at_row), x = at(in.x + at_row), fed = dt * x;
          const L gy = at(g + at_row);
          const T *bt = in.b + row * s.states, *ct = in.c + row * s.states;
          L by_fed, by_exponent;  // gradients of dt x and, by way of a, of dt
          for (std::int64_t n = 0; n < s.states; ++n) {
            const std::int64_t place = i * slot + n * lanes;
            T* carry = carried + n * s.channels;
            const L dh = hn::MulAdd(gy.v, L(ct[n]).v, at(carry).v);
            const L after = L::load(states + place + slot), before = L::load(states + place);
            L(hn::MulAdd(gy.v, after.v, L::load(sums_c + place).v)).store(sums_c + place);
            L(hn::MulAdd(dh.v, fed.v, L::load(sums_b + place).v)).store(sums_b + place);
            by_fed = hn::MulAdd(dh.v, L(bt[n]).v, by_fed.v);
            const L passed = dh * L::load(decays + place), exponent = passed * before;
            by_exponent =
                hn::MulAdd(exponent.v, at(in.a + first + n * s.channels).v, by_exponent.v);
            L(hn::MulAdd(exponent.v, dt.v, L::load(da_chunk + n * lanes).v))
                .store(da_chunk + n * lanes);
            at.store(carry, passed);
          }
          at.store(out.x + at_row, dt * by_fed);
          at.store(out.dt + at_row, L(hn::MulAdd(x.v, by_fed.v, by_exponent.v)));
        }
        for (std::int64_t n = 0; n < s.states; ++n) {
          T* sum = da + n * s.channels;
          at.store(sum, at(sum) + L::load(da_chunk + n * lanes));
        }
      });
      const auto across = [](const T* p) {
        return hn::GetLane(hn::SumOfLanes(simd::Tag<T>(), L::load(p).v));
      };
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t n = 0; n < s.states; ++n) {
          const std::int64_t to = ((number * s.steps + begin + i) * s.batch + b) * s.states + n;
          out.b[to] = across(sums_b + i * slot + n * lanes);
          out.c[to] = across(sums_c + i * slot + n * lanes);
        }
    }
  });
}

}  // namespace unroll::detail
