#pragma once

#include <unroll/ops/amx.h>
#include <unroll/ops/gemm.h>
#include <unroll/ops/gemm_amx.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../catch.h"
#include "../tensors.h"

namespace amx_products {

using namespace unroll;

inline bool available() {
  if (detail::amx::available()) return true;
  WARN("no matrix tiles here: not tested");
  return false;
}

/// The operands of a product as one writes them, whatever way `gemm` reads them: a [m, k], b [k,
/// n].
struct Product {
  Gemm gemm;
  Tensor a, b;
  Tensor bias = Tensor(), start = Tensor();  ///< [n] and [m, n]: what C holds before
};

inline Product normal_product(const Gemm& g, std::uint64_t seed = 1) {
  return {g, normal({g.m, g.k}, seed, DType::f32), normal({g.k, g.n}, seed + 1, DType::f32),
          normal({g.n}, seed + 2, DType::f32), normal({g.m, g.n}, seed + 3, DType::f32)};
}

/// x, or x turned, in rows `row` apart (0: as long as they are). Between them are NaN.
inline Tensor laid_out(const Tensor& x, bool turn, std::int64_t row = 0) {
  const std::int64_t height = turn ? x.size(1) : x.size(0), width = turn ? x.size(0) : x.size(1);
  if (row == 0) row = width;
  Tensor y = Tensor::empty({height, row});
  float* const to = y.mutable_ptr<float>();
  std::fill_n(to, height * row, std::numeric_limits<float>::quiet_NaN());
  const float* const from = x.ptr<float>();
  for (std::int64_t i = 0; i < height; ++i)
    for (std::int64_t j = 0; j < width; ++j)
      to[i * row + j] = turn ? from[j * height + i] : from[i * width + j];
  return y;
}

/// C as f(gemm, a, b, bias, c) makes it.
template <class F>
Tensor result(const Product& p, const F& f) {
  const Gemm& g = p.gemm;
  const Tensor a = laid_out(p.a, g.transpose_a), b = laid_out(p.b, g.transpose_b, g.ldb);
  Tensor c = g.accumulate ? p.start.clone()
                          : Tensor::full({g.m, g.n}, std::numeric_limits<float>::quiet_NaN());
  f(g, a.ptr<float>(), b.ptr<float>(), g.bias ? p.bias.ptr<float>() : nullptr,
    c.mutable_ptr<float>());
  return c;
}

inline Tensor tile_workspace(const Gemm& g) {
  return Tensor::empty({static_cast<std::int64_t>(detail::amx_workspace(g))}, DType::u8);
}

/// On tiles, however small it is, so many rows and columns at a time (0: all at once).
inline Tensor on_tiles(const Product& p, std::int64_t rows = 0, std::int64_t columns = 0) {
  const std::int64_t down = rows == 0 ? p.gemm.m : rows, across = columns == 0 ? p.gemm.n : columns;
  return result(p, [=](const Gemm& g, const float* a, const float* b, const float* bias, float* c) {
    Tensor work = tile_workspace(g);
    for (std::int64_t i = 0; i < g.m; i += down)
      for (std::int64_t j = 0; j < g.n; j += across)
        detail::gemm_amx(g, {i, std::min(g.m, i + down)}, {j, std::min(g.n, j + across)}, a, b,
                         bias, c, work.bytes());
  });
}

inline Tensor by_gemm(const Product& p) {
  return result(p, [](const Gemm& g, const float* a, const float* b, const float* bias, float* c) {
    gemm(g, a, b, bias, c);
  });
}

/// Without bias, as a processor without tiles has it: products in batches do not go to them.
inline Tensor by_backend(const Product& p) {
  const Gemm& one = p.gemm;
  const Gemm g{.m = one.m,
               .n = one.n,
               .k = one.k,
               .batch = 2,
               .step_b = one.k * one.n,
               .step_c = one.m * one.n};
  Tensor b = Tensor::empty({2, g.k, g.n}), c = Tensor::empty({2, g.m, g.n});
  for (int i = 0; i < 2; ++i)
    std::copy_n(p.b.ptr<float>(), g.step_b, b.mutable_ptr<float>() + i * g.step_b);
  gemm(g, p.a.ptr<float>(), b.ptr<float>(), nullptr, c.mutable_ptr<float>());
  return c.rows(0, 1);
}

inline Tensor by_packed(const Product& p) {
  return result(p, [](const Gemm& g, const float* a, const float* b, const float* bias, float* c) {
    PackedGemm<float>(g, b).run(a, bias, c);
  });
}

/// The sums over k in double, and those of the terms' sizes, by which errors are measured.
struct Sums {
  std::vector<double> value, size;
};

inline Sums by_hand(const Product& p) {
  const auto [m, n, k] = std::tuple{p.gemm.m, p.gemm.n, p.gemm.k};
  const auto count = static_cast<std::size_t>(m * n);
  Sums sums{std::vector<double>(count), std::vector<double>(count)};
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t l = 0; l < k; ++l) {
      const double x = p.a.ptr<float>()[i * k + l];
      const float* const y = p.b.ptr<float>() + l * n;
      double* const value = sums.value.data() + i * n;
      double* const size = sums.size.data() + i * n;
      for (std::int64_t j = 0; j < n; ++j) {
        const double term = x * static_cast<double>(y[j]);
        value[j] += term;
        size[j] += std::abs(term);
      }
    }
  return sums;
}

/// Errors of C relative to the sizes of the terms: the greatest (NaN where C has one), and the root
/// of the mean square.
struct Errors {
  double greatest = 0, typical = 0;
};

inline Errors errors(const Tensor& c, const Product& p, const Sums& sums) {
  Errors result;
  for (std::size_t i = 0; i < sums.value.size(); ++i) {
    const double start = p.gemm.accumulate ? p.start.ptr<float>()[i]
                         : p.gemm.bias ? p.bias.ptr<float>()[i % static_cast<std::size_t>(p.gemm.n)]
                                       : 0.0;
    const double size = sums.size[i] + std::abs(start);
    const double error = std::abs(c.ptr<float>()[i] - (sums.value[i] + start)) / size;
    if (!(error <= result.greatest)) result.greatest = error;
    if (std::isnan(error)) return {error, error};
    result.typical += error * error / static_cast<double>(sums.value.size());
  }
  result.typical = std::sqrt(result.typical);
  return result;
}

}  // namespace amx_products
