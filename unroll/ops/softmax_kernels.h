#pragma once

#include <unroll/graph/shape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/lane_loops.h>
#include <unroll/ops/reduce_kernels.h>

#include <algorithm>

namespace unroll::detail {

/// A softmax as loops: along the middle axis of [outer, count, inner], of which a causal one sees
/// a part that grows from row to row.
struct SoftmaxShape : ReduceShape {
  bool causal = false;
  std::int64_t queries = 1;

  SoftmaxShape(const ReduceShape& r, const Shape& shape, bool hides)
      : ReduceShape(r), causal(hides) {
    if (causal) queries = shape[-2];
  }
  /// How many leading elements of a row are visible.
  std::int64_t visible(std::int64_t row) const {
    if (!causal) return count;
    return std::clamp<std::int64_t>(row % queries + 1 + count - queries, 0, count);
  }
};

/// Where a row's mask begins, and whether it has an element per column or one for all.
struct MaskRow {
  std::int64_t offset = 0;
  bool steps = false;
};

/// Runs f(begin, end) over the outer axis in pieces of some thousand elements.
template <class F>
void over_rows(const ReduceShape& r, double work_per_element, const F& f) {
  const std::int64_t size = r.count * r.inner;
  parallel_for(r.outer, std::max<std::int64_t>(1, 4096 / size),
               work_per_element * static_cast<double>(r.outer * size), f);
}

/// y = e^(score - its maximum), divided by its sum; zeros where no score is above -infinity.
template <class T, class Score>
void softmax_row(std::int64_t n, const Score& score, T* y) {
  using L = simd::Lanes<T>;
  const T top = simd::max_of<T>(n, score);
  if (top == -std::numeric_limits<T>::infinity()) {
    std::fill_n(y, n, T(0));
    return;
  }
  const L shift(top);
  const double sum = simd::sum_of<T>(n, [&](const auto& at) {
    const L e = exp(score(at) - shift);
    at.store(y, e);
    return e;
  });
  const L factor(1 / sum);
  simd::for_lanes<T>(n, [&](const auto& at) { at.store(y, at(y) * factor); });
}

/// The same down columns, a vector of them at a time.
template <class T>
void softmax_columns(const ReduceShape& r, T scale, const T* x, T* y) {
  using L = simd::Lanes<T>;
  const L factor(scale), lowest(-std::numeric_limits<T>::infinity());
  simd::for_lanes<T>(r.inner, [&](const auto& at) {
    L top = at(x) * factor;
    for (std::int64_t k = 1; k < r.count; ++k)
      top = simd::max_or_nan<T>(top, at(x + k * r.inner) * factor);
    // Where nothing is above -infinity: no difference of infinities, each e^x is 0.
    const L shift = where<T>(top == lowest, L(0), top);
    L sum(0);
    for (std::int64_t k = 0; k < r.count; ++k) {
      const L e = exp(at(x + k * r.inner) * factor - shift);
      at.store(y + k * r.inner, e);
      sum = sum + e;
    }
    const L inverse = where<T>(top == lowest, L(0), L(1) / sum);
    for (std::int64_t k = 0; k < r.count; ++k)
      at.store(y + k * r.inner, at(y + k * r.inner) * inverse);
  });
}

/// y = softmax(scale x). `mask` may be null; mask_row(row) says where in it a row's mask lies.
template <class T, class MaskRows>
void softmax(const SoftmaxShape& s, T scale, const T* x, const T* mask, T* y,
             const MaskRows& mask_row) {
  using L = simd::Lanes<T>;
  const L factor(scale), lowest(-std::numeric_limits<T>::infinity());
  over_rows(s, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = x + row * s.count * s.inner;
      T* to = y + row * s.count * s.inner;
      if (s.inner != 1) {
        softmax_columns(s, scale, from, to);
        continue;
      }
      std::int64_t n = s.visible(row);
      const MaskRow place = mask == nullptr ? MaskRow{} : mask_row(row);
      const T* m = mask + place.offset;
      if (mask != nullptr && !place.steps && *m == 0) n = 0;
      if (mask != nullptr && place.steps) {
        softmax_row(
            n, [&](const auto& at) { return where<T>(at(m) != L(0), at(from) * factor, lowest); },
            to);
      } else {
        softmax_row(
            n, [&](const auto& at) { return at(from) * factor; }, to);
      }
      std::fill(to + n, to + s.count, T(0));
    }
  });
}

/// dx = scale y (g - <g, y>)
template <class T>
void softmax_backward(const SoftmaxShape& s, T scale, const T* y, const T* g, T* dx) {
  using L = simd::Lanes<T>;
  const L factor(scale);
  over_rows(s, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t start = row * s.count * s.inner;
      const T *yr = y + start, *gr = g + start;
      T* to = dx + start;
      if (s.inner == 1) {
        const std::int64_t n = s.visible(row);
        const L dot(simd::sum_of<T>(n, [&](const auto& at) { return at(yr) * at(gr); }));
        simd::for_lanes<T>(n,
                           [&](const auto& at) { at.store(to, factor * at(yr) * (at(gr) - dot)); });
        std::fill(to + n, to + s.count, T(0));
        continue;
      }
      simd::for_lanes<T>(s.inner, [&](const auto& at) {
        L dot(0);
        for (std::int64_t k = 0; k < s.count; ++k)
          dot = dot + at(yr + k * s.inner) * at(gr + k * s.inner);
        for (std::int64_t k = 0; k < s.count; ++k)
          at.store(to + k * s.inner, factor * at(yr + k * s.inner) * (at(gr + k * s.inner) - dot));
      });
    }
  });
}

/// y = x - logsumexp(x)
template <class T>
void log_softmax(const ReduceShape& r, const T* x, T* y) {
  using L = simd::Lanes<T>;
  over_rows(r, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = x + row * r.count * r.inner;
      T* to = y + row * r.count * r.inner;
      if (r.inner == 1) {
        const auto value = [from](const auto& at) { return at(from); };
        const simd::LogSum<T> sum = simd::log_sum<T>(r.count, value);
        const L shift(sum.top), rest(sum.rest);
        simd::for_lanes<T>(r.count,
                           [&](const auto& at) { at.store(to, value(at) - shift - rest); });
        continue;
      }
      simd::for_lanes<T>(r.inner, [&](const auto& at) {
        L top = at(from);
        for (std::int64_t k = 1; k < r.count; ++k)
          top = simd::max_or_nan<T>(top, at(from + k * r.inner));
        L sum(0);
        for (std::int64_t k = 0; k < r.count; ++k) sum = sum + exp(at(from + k * r.inner) - top);
        const L rest = log(sum);
        for (std::int64_t k = 0; k < r.count; ++k)
          at.store(to + k * r.inner, at(from + k * r.inner) - top - rest);
      });
    }
  });
}

/// dx = g - e^y <g, 1>
template <class T>
void log_softmax_backward(const ReduceShape& r, const T* y, const T* g, T* dx) {
  using L = simd::Lanes<T>;
  over_rows(r, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t start = row * r.count * r.inner;
      const T *yr = y + start, *gr = g + start;
      T* to = dx + start;
      if (r.inner == 1) {
        const L all(simd::sum_of<T>(r.count, [&](const auto& at) { return at(gr); }));
        simd::for_lanes<T>(r.count,
                           [&](const auto& at) { at.store(to, at(gr) - exp(at(yr)) * all); });
        continue;
      }
      simd::for_lanes<T>(r.inner, [&](const auto& at) {
        L all(0);
        for (std::int64_t k = 0; k < r.count; ++k) all = all + at(gr + k * r.inner);
        for (std::int64_t k = 0; k < r.count; ++k)
          at.store(to + k * r.inner, at(gr + k * r.inner) - exp(at(yr + k * r.inner)) * all);
      });
    }
  });
}

}  // namespace unroll::detail
