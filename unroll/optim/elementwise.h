#pragma once

#include <unroll/graph/threads.h>
#include <unroll/ops/simd.h>
#include <unroll/optim/optimizer.h>

#include <array>

namespace unroll::detail {

/// Calls f(value, grad, moments) with SIMD vectors of T for all elements, the gradient scaled, and
/// stores the value and the moments, which f takes by reference: one pass over memory.
template <class T, std::size_t count, class F>
void update_elements(const ParameterUpdate& parameter, const F& f) {
  using simd::Lanes;
  constexpr auto lanes = static_cast<std::int64_t>(Lanes<T>::count);
  constexpr std::int64_t piece = 16384;  // elements: a whole number of vectors
  T* const values = parameter.value.mutable_ptr<T>();
  const T* const grads = parameter.grad.ptr<T>();
  std::array<T*, count> moments;
  for (std::size_t m = 0; m < count; ++m) moments[m] = parameter.moments[m].mutable_ptr<T>();
  const Lanes<T> scale(parameter.grad_scale);

  const auto run = [&](std::int64_t begin, std::int64_t end) {
    std::array<Lanes<T>, count> moment;
    std::int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      auto value = Lanes<T>::load(values + i);
      for (std::size_t m = 0; m < count; ++m) moment[m] = Lanes<T>::load(moments[m] + i);
      f(value, scale * Lanes<T>::load(grads + i), moment);
      value.store(values + i);
      for (std::size_t m = 0; m < count; ++m) moment[m].store(moments[m] + i);
    }
    if (i == end) return;
    const auto rest = static_cast<std::size_t>(end - i);
    auto value = Lanes<T>::load_first(values + i, rest);
    for (std::size_t m = 0; m < count; ++m) moment[m] = Lanes<T>::load_first(moments[m] + i, rest);
    f(value, scale * Lanes<T>::load_first(grads + i, rest), moment);
    value.store_first(values + i, rest);
    for (std::size_t m = 0; m < count; ++m) moment[m].store_first(moments[m] + i, rest);
  };
  const std::int64_t elements = parameter.value.numel();
  parallel_for(elements, piece, 40.0 * static_cast<double>(elements), run);
}

}  // namespace unroll::detail
