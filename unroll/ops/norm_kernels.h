#pragma once

#include <unroll/graph/tensor.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/lane_loops.h>

#include <algorithm>
#include <cmath>

namespace unroll::detail {

/// The rows of a normalisation: x [rows, width]. RMS norm is layer norm with a mean of 0.
struct NormShape {
  std::int64_t rows = 0, width = 0;
  bool centred = true;  ///< subtracts the mean

  template <class F>
  void over_rows(const F& f) const {
    parallel_for(rows, std::max<std::int64_t>(1, 4096 / width),
                 16.0 * static_cast<double>(rows * width), f);
  }
};

/// What is added to x before it is normalised, and where the sum goes; both null: nothing is.
template <class T>
struct NormAddend {
  const T* added = nullptr;
  T* sum = nullptr;
};

/// One row of norm(): its mean, or 0, and 1 / deviation.
template <class T>
struct RowMoments {
  T mean, rstd;
};

/// y = (x - mean) rstd weight + bias of a row. weight and bias may be null.
template <class T>
UNROLL_FLATTEN RowMoments<T> norm_row(const NormShape& s, double eps, const T* x, const T* weight,
                                      const T* bias, T* y) {
  using L = simd::Lanes<T>;
  const auto n = static_cast<double>(s.width);
  const auto sum = [&] { return simd::sum_of<T>(s.width, [x](const auto& at) { return at(x); }); };
  const T mean = s.centred ? static_cast<T>(sum() / n) : T(0);
  const L m(mean);
  const double squares = simd::sum_of<T>(s.width, [&](const auto& at) {
    const L d = at(x) - m;
    return d * d;
  });
  const T rstd = static_cast<T>(1 / std::sqrt(squares / n + eps));
  const L r(rstd);
  simd::for_lanes<T>(s.width, [&](const auto& at) {
    L value = (at(x) - m) * r;
    if (weight != nullptr) value = value * at(weight);
    if (bias != nullptr) value = value + at(bias);
    at.store(y, value);
  });
  return {mean, rstd};
}

/// y = (x - mean) rstd weight + bias; mean [rows], rstd [rows] are results too. weight and bias
/// may be null. With an addend x + added takes the place of x, within one pass over memory.
template <class T>
void norm(const NormShape& s, double eps, const T* x, const NormAddend<T>& addend, const T* weight,
          const T* bias, T* y, T* mean, T* rstd) {
  s.over_rows([&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = x + row * s.width;
      if (addend.added != nullptr) {
        const T* const other = addend.added + row * s.width;
        T* const sum = addend.sum + row * s.width;
        simd::for_lanes<T>(s.width, [&](const auto& at) { at.store(sum, at(from) + at(other)); });
        from = sum;
      }
      const RowMoments<T> moments = norm_row(s, eps, from, weight, bias, y + row * s.width);
      mean[row] = moments.mean;
      rstd[row] = moments.rstd;
    }
  });
}

/// One row of norm_backward().
template <class T>
UNROLL_FLATTEN void norm_backward_row(const NormShape& s, const T* x, const T* weight,
                                      const RowMoments<T>& moments, const T* g, const T* direct,
                                      T* dx) {
  using L = simd::Lanes<T>;
  const auto n = static_cast<double>(s.width);
  const L m(moments.mean), r(moments.rstd);
  const auto weighted = [&](const auto& at) {
    return weight == nullptr ? at(g) : at(g) * at(weight);
  };
  const auto sums = simd::sum_lanes<T, 2>(s.width, [&](const auto& at) {
    const L a = weighted(at);
    return std::array{a, L(a * ((at(x) - m) * r))};
  });
  const L mean_a(s.centred ? sums[0] / n : 0.0), mean_az(sums[1] / n);
  simd::for_lanes<T>(s.width, [&](const auto& at) {
    const L z = (at(x) - m) * r;
    L d = r * (weighted(at) - mean_a - z * mean_az);
    if (direct != nullptr) d = d + at(direct);
    at.store(dx, d);
  });
}

/// dx = rstd (a - mean(a) - z mean(a z)) with a = g weight and z = (x - mean) rstd; plus `direct`,
/// the gradient that reaches x past the norm, unless that is null.
template <class T>
void norm_backward(const NormShape& s, const T* x, const T* weight, const T* mean, const T* rstd,
                   const T* g, const T* direct, T* dx) {
  s.over_rows([&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t at = row * s.width;
      norm_backward_row(s, x + at, weight, {mean[row], rstd[row]}, g + at,
                        direct == nullptr ? nullptr : direct + at, dx + at);
    }
  });
}

/// How many rows norm_parameters_backward() sums at a time.
inline std::int64_t norm_block(std::int64_t width) {
  return std::clamp<std::int64_t>(16384 / width, 16, 128);
}

/// dweight = sum over rows of g z, dbias = sum over rows of g (dbias may be null). Blocks of rows
/// are summed in T, the blocks in double, in order.
template <class T>
void norm_parameters_backward(const NormShape& s, const T* x, const T* mean, const T* rstd,
                              const T* g, T* dweight, T* dbias) {
  const std::int64_t n = s.width;
  const std::int64_t block = norm_block(n);
  const std::int64_t blocks = (s.rows + block - 1) / block;
  Tensor scratch = Tensor::zeros({blocks, 2, n}, dtype_of<T>());
  T* parts = scratch.mutable_ptr<T>();
  parallel_for(s.rows, block, 16.0 * static_cast<double>(s.rows * n),
               [&](std::int64_t begin, std::int64_t end) {
                 T* __restrict weights = parts + begin / block * 2 * n;
                 T* __restrict biases = weights + n;
                 for (std::int64_t row = begin; row < end; ++row) {
                   const T *from = x + row * n, *grad = g + row * n;
                   const T m = mean[row], r = rstd[row];
                   for (std::int64_t j = 0; j < n; ++j) {
                     weights[j] += grad[j] * ((from[j] - m) * r);
                     biases[j] += grad[j];
                   }
                 }
               });
  for (std::int64_t j = 0; j < n; ++j) {
    double weight = 0, bias = 0;
    for (std::int64_t b = 0; b < blocks; ++b) {
      weight += static_cast<double>(parts[2 * b * n + j]);
      bias += static_cast<double>(parts[(2 * b + 1) * n + j]);
    }
    dweight[j] = static_cast<T>(weight);
    if (dbias != nullptr) dbias[j] = static_cast<T>(bias);
  }
}

}  // namespace unroll::detail
