#include <fmt/format.h>
#include <unroll/layers/revin.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/check.h>
#include <unroll/ops/reduce.h>

namespace unroll {

RevIN::RevIN(const RevINOptions& options) : options_(options) {
  if (options.channels < 1) fail("RevIN", fmt::format("{} channels", options.channels));
  if (options.affine) {
    affine_weight = Parameter(Tensor::full({options.channels}, 1));
    affine_bias = Parameter(Tensor::zeros({options.channels}));
  }
  add("affine_weight", affine_weight);
  add("affine_bias", affine_bias);
}

RevIN::Normalized RevIN::normalize(const Tensor& x, Where where) const {
  if (x.rank() != 3 || x.size(2) != options_.channels)
    fail_shape_at("RevIN", fmt::format("{} for {} channels", to_string(x), options_.channels),
                  where, "x is [T, B, C]");
  const Tensor centre = mean(x, {0}, true, where);
  const Tensor centred = sub(x, centre, where);
  const Tensor variance = mean(square(centred, where), {0}, true, where);
  const Tensor deviation = sqrt(affine(variance, 1, options_.eps, where), where);
  Tensor result = div(centred, deviation, where);
  if (options_.affine) result = unroll::add(mul(result, affine_weight, where), affine_bias, where);
  return {.x = result, .mean = centre, .deviation = deviation};
}

Tensor RevIN::restore(const Tensor& y, const Normalized& window, Where where) const {
  Tensor result = y;
  if (options_.affine)
    result = div(sub(result, affine_bias, where),
                 affine(affine_weight, 1, options_.eps * options_.eps, where), where);
  return unroll::add(mul(result, window.deviation, where), window.mean, where);
}

std::string RevIN::describe() const {
  return fmt::format("RevIN({}{})", options_.channels, options_.affine ? "" : ", not affine");
}

}  // namespace unroll
