#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

/// Standard normal numbers, the same ones in every dtype.
inline unroll::Tensor normal(const unroll::Shape& shape, std::uint64_t seed,
                             unroll::DType dtype = unroll::DType::f64) {
  return unroll::Generator(seed).normal(shape, 0, 1, unroll::DType::f64).to(dtype);
}

/// The largest difference of two elements: infinity where the shapes differ, NaN where one is NaN,
/// 0 for two undefined tensors.
inline double difference(const unroll::Tensor& a, const unroll::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined() ? 0 : INFINITY;
  if (a.shape() != b.shape()) return INFINITY;
  const unroll::Tensor x = a.to(unroll::DType::f64), y = b.to(unroll::DType::f64);
  const auto left = x.data<double>(), right = y.data<double>();
  double worst = 0;
  for (std::size_t i = 0; i < left.size(); ++i) {
    const double d = std::abs(left[i] - right[i]);
    if (std::isnan(d)) return d;
    if (d > worst) worst = d;
  }
  return worst;
}

inline bool same_bits(const unroll::Tensor& a, const unroll::Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes(), b.bytes(),
                     static_cast<std::size_t>(a.numel() * size_of(a.dtype()))) == 0;
}

inline bool same_bits(const std::map<std::string, unroll::Tensor>& a,
                      const std::map<std::string, unroll::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && same_bits(x.second, y.second);
  });
}
