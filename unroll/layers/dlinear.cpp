#include <fmt/format.h>
#include <unroll/layers/dlinear.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/check.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>

#include <algorithm>

namespace unroll {
namespace {

// [T, T]: row t holds the weights with which the average at t takes each step.
Tensor averaging(std::int64_t steps, std::int64_t kernel, DType dtype) {
  return with_float("decompose", dtype, [&](auto zero) {
    using T = decltype(zero);
    Tensor result = Tensor::zeros({steps, steps}, dtype);
    T* weights = result.template mutable_ptr<T>();
    for (std::int64_t t = 0; t < steps; ++t)
      for (std::int64_t k = -(kernel / 2); k <= kernel / 2; ++k)
        weights[t * steps + std::clamp<std::int64_t>(t + k, 0, steps - 1)] +=
            T(1) / static_cast<T>(kernel);
    return result;
  });
}

// A layer along the first axis of x [T, N]: the weight comes first, nothing is transposed.
Tensor along_time(const Linear& layer, const Tensor& x, Where where) {
  return add(matmul(layer.weight, x, {}, where), unsqueeze(layer.bias, 1, where), where);
}

}  // namespace

Decomposition decompose(const Tensor& x, std::int64_t kernel, Where where) {
  if (x.rank() < 1 || kernel < 1 || kernel % 2 == 0)
    fail_shape_at("decompose", fmt::format("a window of {} steps over x {}", kernel, to_string(x)),
                  where, "x is [T, ...], and the window an odd number of steps");
  const Tensor flat = reshape(x, {x.size(0), -1}, where);
  const Tensor trend =
      reshape(matmul(averaging(x.size(0), kernel, x.dtype()), flat, {}, where), x.shape(), where);
  return {.seasonal = sub(x, trend, where), .trend = trend};
}

DLinear::DLinear(const DLinearOptions& options, GeneratorRef generator)
    : options_(options),
      seasonal_(options.look_back, options.horizon, generator),
      trend_(options.look_back, options.horizon, generator) {
  if (options.kernel < 1 || options.kernel % 2 == 0)
    fail("DLinear", fmt::format("a moving average over {} steps", options.kernel),
         "An odd number has a middle");
  if (options.average)
    for (Linear* layer : {&seasonal_, &trend_})
      layer->weight.set_value(Tensor::full({options.horizon, options.look_back},
                                           1 / static_cast<double>(options.look_back)));
  add("Linear_Seasonal", seasonal_);
  add("Linear_Trend", trend_);
}

Tensor DLinear::operator()(const Tensor& x, Where where) const {
  if (x.rank() != 3 || x.size(0) != options_.look_back)
    fail_shape_at("DLinear",
                  fmt::format("{} for a look-back of {} steps", to_string(x), options_.look_back),
                  where, "x is [look_back, B, C]");
  const Tensor flat = reshape(x, {x.size(0), -1}, where);
  const auto [seasonal, trend] = decompose(flat, options_.kernel, where);
  const Tensor y =
      unroll::add(along_time(seasonal_, seasonal, where), along_time(trend_, trend, where), where);
  return reshape(y, {options_.horizon, x.size(1), x.size(2)}, where);
}

std::string DLinear::describe() const {
  return fmt::format("DLinear({} -> {}, kernel {})", options_.look_back, options_.horizon,
                     options_.kernel);
}

}  // namespace unroll
