#include <fmt/format.h>
#include <unroll/graph/threads.h>
#include <unroll/optim/clip.h>
#include <unroll/optim/optimizer.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace unroll {
namespace {

constexpr std::int64_t piece = 16384;  // elements

// The sum of the squares of x[begin, end), in 16 running sums so that it is fast and yet ordered.
template <class T>
double sum_of_squares(const T* x, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t width = 16;
  std::array<double, width> sums{};
  std::int64_t i = begin;
  for (; i + width <= end; i += width) {
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      const auto value = static_cast<double>(x[i + j]);
      sums[j] += value * value;
    }
  }
  for (std::int64_t j = 0; i < end; ++i, ++j)
    sums[j] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double sum = 0;
  for (double part : sums) sum += part;
  return sum;
}

// Replaces every gradient by f of it, element by element, in place where nobody else reads it.
template <class F>
void change_grads(const char* op, const std::vector<Parameter>& parameters, F f) {
  for (const Parameter& parameter : parameters) {
    Tensor& grad = parameter.state()->grad;
    if (!grad.defined() || grad.unique()) continue;
    const MemoryScope scope(MemoryKind::gradient);
    grad = grad.clone();
  }
  const detail::FlushDenormals flush;
  for (const Parameter& parameter : parameters) {
    Tensor& grad = parameter.state()->grad;
    if (!grad.defined()) continue;
    with_float(op, grad.dtype(), [&](auto zero) {
      using T = decltype(zero);
      T* const x = grad.mutable_ptr<T>();
      const auto work = 6.0 * static_cast<double>(grad.numel());
      parallel_for(grad.numel(), piece, work, [&](std::int64_t a, std::int64_t b) {
#pragma omp simd
        for (std::int64_t i = a; i < b; ++i) x[i] = f(x[i]);
      });
    });
  }
}

void check(const char* op, const std::vector<Parameter>& parameters, double limit) {
  if (!(limit >= 0)) fail(op, fmt::format("a limit of {}; at least 0", limit));
  check_distinct(op, parameters);
  for (const Parameter& parameter : parameters) {
    const Tensor& grad = parameter.grad();
    if (grad.defined() && ((grad.is_abstract() && !detail::dry) || !is_float(grad.dtype())))
      fail(op, fmt::format("a gradient {} without data, or not f32 or f64", to_string(grad)));
  }
}

}  // namespace

double squared_norm(const Tensor& grad) {
  const std::int64_t count = grad.numel();
  CachedVector<double> parts((count + piece - 1) / piece);
  with_float("squared_norm", grad.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const x = grad.ptr<T>();
    parallel_for(
        count, piece, 6.0 * static_cast<double>(count),
        [&](std::int64_t a, std::int64_t b) { parts[a / piece] = sum_of_squares(x, a, b); });
  });
  double sum = 0;
  for (double part : parts) sum += part;
  return sum;
}

double clip_factor(double norm, double max_norm) {
  // As in PyTorch, which keeps clear of a division by zero.
  const double factor = max_norm / (norm + 1e-6);
  return std::isfinite(norm) && factor < 1 ? factor : 1;
}

double clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm) {
  check("clip_grad_norm", parameters, max_norm);
  if (detail::dry) return 0;
  double sum = 0;
  {
    const detail::FlushDenormals flush;
    for (const Parameter& parameter : parameters)
      if (parameter.grad().defined()) sum += squared_norm(parameter.grad());
  }
  const double norm = std::sqrt(sum);
  if (const double factor = clip_factor(norm, max_norm); factor < 1)
    change_grads("clip_grad_norm", parameters,
                 [factor](auto x) { return x * static_cast<decltype(x)>(factor); });
  return norm;
}

void clip_grad_value(const std::vector<Parameter>& parameters, double limit) {
  check("clip_grad_value", parameters, limit);
  if (detail::dry) return;
  change_grads("clip_grad_value", parameters, [limit](auto x) {
    const auto most = static_cast<decltype(x)>(limit);
    return x > most ? most : x < -most ? -most : x;
  });
}

}  // namespace unroll
