#pragma once

// Loops over contiguous runs in vectors, tails included, for kernels that reduce. Every sum is
// taken in an order that depends on its length alone.

#include <unroll/ops/simd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

namespace unroll::simd {

/// Reads and writes a whole vector at element i.
template <class T>
struct Whole {
  std::int64_t i;
  Lanes<T> operator()(const T* p) const { return Lanes<T>::load(p + i); }
  void store(T* p, Lanes<T> v) const { v.store(p + i); }
};

/// Reads and writes the first `rest` elements at i; what is read beyond is 0.
template <class T>
struct Rest {
  std::int64_t i;
  std::size_t rest;
  Lanes<T> operator()(const T* p) const { return Lanes<T>::load_first(p + i, rest); }
  void store(T* p, Lanes<T> v) const { v.store_first(p + i, rest); }
};

/// Calls f(at) for all of 0..n; at(p) reads the vector of p, at.store(p, v) writes it.
template <class T, class F>
void for_lanes(std::int64_t n, const F& f) {
  constexpr std::int64_t lanes = Lanes<T>::count;
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(Whole<T>{i});
  if (i < n) f(Rest<T>{i, static_cast<std::size_t>(n - i)});
}

/// Sums of K terms over 0..n: term(at) returns std::array<Lanes<T>, K>. Lanes are summed in
/// blocks and the blocks in double, so that the error hardly grows with n.
template <class T, std::size_t K, class Term>
std::array<double, K> sum_lanes(std::int64_t n, const Term& term) {
  using L = Lanes<T>;
  constexpr std::int64_t lanes = L::count;
  constexpr std::int64_t chains = K == 1 ? 4 : 2;  // hide the latency of an addition
  constexpr std::int64_t block = 64 * lanes;
  std::array<double, K> total{};
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t end = std::min(n, begin + block);
    std::array<std::array<L, K>, chains> sum;
    std::int64_t i = begin;
    for (; i + chains * lanes <= end; i += chains * lanes)
      for (std::int64_t c = 0; c < chains; ++c) {
        const std::array<L, K> value = term(Whole<T>{i + c * lanes});
        for (std::size_t k = 0; k < K; ++k) sum[c][k] = sum[c][k] + value[k];
      }
    for (; i + lanes <= end; i += lanes) {
      const std::array<L, K> value = term(Whole<T>{i});
      for (std::size_t k = 0; k < K; ++k) sum[0][k] = sum[0][k] + value[k];
    }
    if (i < end) {
      const auto rest = static_cast<std::size_t>(end - i);
      const std::array<L, K> value = term(Rest<T>{i, rest});
      for (std::size_t k = 0; k < K; ++k)
        sum[1][k] = sum[1][k] + L(hn::IfThenElseZero(hn::FirstN(Tag<T>(), rest), value[k].v));
    }
    for (std::size_t k = 0; k < K; ++k) {
      L all = sum[0][k] + sum[1][k];
      if constexpr (chains == 4) all = all + (sum[2][k] + sum[3][k]);
      total[k] += static_cast<double>(hn::GetLane(hn::SumOfLanes(Tag<T>(), all.v)));
    }
  }
  return total;
}

/// The sum of one term: term(at) returns Lanes<T>.
template <class T, class Term>
double sum_of(std::int64_t n, const Term& term) {
  return sum_lanes<T, 1>(n, [&](const auto& at) { return std::array{Lanes<T>(term(at))}; })[0];
}

/// Where x is NaN. (Highway's comparisons are ordered: a NaN is not even unequal to itself.)
template <class T>
LaneMask<T> is_nan(Lanes<T> x) {
  return hn::Not(x == x);
}

/// The larger of two; NaN where one of them is.
template <class T>
Lanes<T> max_or_nan(Lanes<T> a, Lanes<T> b) {
  return where<T>(hn::Or(b > a, is_nan(b)), b, a);
}

/// The largest term over 0..n, -infinity for n = 0, NaN where a term is.
template <class T, class Term>
T max_of(std::int64_t n, const Term& term) {
  using L = Lanes<T>;
  constexpr std::int64_t lanes = L::count;
  const L lowest(-std::numeric_limits<T>::infinity());
  L a = lowest, b = lowest;
  LaneMask<T> nan = is_nan(lowest);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const L x = term(Whole<T>{i}), y = term(Whole<T>{i + lanes});
    nan = hn::Or(nan, hn::Or(is_nan(x), is_nan(y)));
    a = maximum(a, x);
    b = maximum(b, y);
  }
  for (; i + lanes <= n; i += lanes) {
    const L x = term(Whole<T>{i});
    nan = hn::Or(nan, is_nan(x));
    a = maximum(a, x);
  }
  if (i < n) {
    const auto rest = static_cast<std::size_t>(n - i);
    const L x = where<T>(hn::FirstN(Tag<T>(), rest), term(Rest<T>{i, rest}), lowest);
    nan = hn::Or(nan, is_nan(x));
    b = maximum(b, x);
  }
  if (!hn::AllFalse(Tag<T>(), nan)) return std::numeric_limits<T>::quiet_NaN();
  return hn::GetLane(hn::MaxOfLanes(Tag<T>(), maximum(a, b).v));
}

/// The logarithm of a sum of exponentials in two parts, which keep their digits where the sum of
/// the parts would lose some.
template <class T>
struct LogSum {
  T top;   ///< the largest exponent
  T rest;  ///< log(sum of e^(exponent - top))
};

/// That of term(at) over 0..n: top is -infinity where all terms are, NaN where one is.
template <class T, class Term>
LogSum<T> log_sum(std::int64_t n, const Term& term) {
  const T top = max_of<T>(n, term);
  if (!(std::abs(top) <= std::numeric_limits<T>::max())) return {top, 0};
  const Lanes<T> shift(top);
  const double sum = sum_of<T>(n, [&](const auto& at) { return exp(term(at) - shift); });
  return {top, static_cast<T>(std::log(sum))};
}

}  // namespace unroll::simd
