#pragma once

// One query's attention, vectors along D: what is made of it serves few queries, and streams.

#include <unroll/ops/tiles.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace unroll::detail {

/// The sum of each of four vectors' lanes.
template <class T>
std::array<T, 4> sums_of_four(const simd::Lanes<T> (&x)[4]) {
  namespace hn = simd::hn;
  const simd::Tag<T> d;
  std::array<T, 4> sums;
  if constexpr (sizeof(T) == 4 && simd::Lanes<T>::count >= 4) {
    // Turned as a 4 x 4 square within each 128 bits, then these are added.
    const auto pairs = [&](auto a, auto b) {
      return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
    };
    const hn::Repartition<double, simd::Tag<T>> wide;
    const auto low = hn::BitCast(wide, pairs(x[0].v, x[1].v)),
               high = hn::BitCast(wide, pairs(x[2].v, x[3].v));
    const auto add_halves = [](auto self, auto tag, auto v) {
      if constexpr (hn::MaxLanes(tag) == 4) {
        return v;
      } else {
        const hn::Half<decltype(tag)> half;
        return self(self, half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
      }
    };
    const auto sum = hn::Add(hn::BitCast(d, hn::InterleaveLower(wide, low, high)),
                             hn::BitCast(d, hn::InterleaveUpper(wide, low, high)));
    hn::StoreU(add_halves(add_halves, d, sum), hn::CappedTag<T, 4>(), sums.data());
  } else {
    for (int i = 0; i < 4; ++i) sums[i] = hn::GetLane(hn::SumOfLanes(d, x[i].v));
  }
  return sums;
}

/// scores[j] = scale <q, row j of k>, several rows at a time.
template <class T>
UNROLL_FLATTEN void score(std::int64_t keys, std::int64_t size, const T* q, const T* k,
                          std::int64_t step, T scale, T* scores) {
  using L = simd::Lanes<T>;
  namespace hn = simd::hn;
  constexpr std::int64_t together = 4;
  for (std::int64_t j = 0; j < keys; j += together) {
    L sum[together];
    simd::for_lanes<T>(size, [&](const auto& at) {
      const L x = at(q);
      for (std::int64_t r = 0; r < together; ++r) {
        const std::int64_t row = std::min(j + r, keys - 1);  // a row twice, rather than a branch
        sum[r] = hn::MulAdd(x.v, at(k + row * step).v, sum[r].v);
      }
    });
    const std::array<T, together> sums = sums_of_four<T>(sum);
    for (std::int64_t r = 0; r < together && j + r < keys; ++r) scores[j + r] = scale * sums[r];
  }
}

/// out = factor * sum of weight j times row j of v.
template <class T>
UNROLL_FLATTEN void mix(std::int64_t keys, std::int64_t size, const T* weights, const T* v,
                        std::int64_t step, T factor, T* out) {
  using L = simd::Lanes<T>;
  namespace hn = simd::hn;
  constexpr std::int64_t chains = 4;
  simd::for_lanes<T>(size, [&](const auto& at) {
    L sum[chains];
    std::int64_t j = 0;
    for (; j + chains <= keys; j += chains)
      for (std::int64_t c = 0; c < chains; ++c)
        sum[c] = hn::MulAdd(L(weights[j + c]).v, at(v + (j + c) * step).v, sum[c].v);
    for (; j < keys; ++j) sum[0] = hn::MulAdd(L(weights[j]).v, at(v + j * step).v, sum[0].v);
    at.store(out, ((sum[0] + sum[1]) + (sum[2] + sum[3])) * L(factor));
  });
}

/// Scores become powers of two below the largest. Returns their sum, and the largest score.
template <class T>
UNROLL_FLATTEN std::pair<T, T> weigh(std::int64_t keys, T* scores) {
  using L = simd::Lanes<T>;
  const T top = simd::max_of<T>(keys, [&](const auto& at) { return at(scores); });
  if (top == -std::numeric_limits<T>::infinity()) return {T(0), top};
  const L shift(top);
  const double sum = simd::sum_of<T>(keys, [&](const auto& at) {
    const L weight = power_of_two<T>(at(scores) - shift);
    at.store(scores, weight);
    return weight;
  });
  return {static_cast<T>(sum), top};
}

}  // namespace unroll::detail
