#include <fmt/format.h>
#include <unroll/layers/norm.h>

namespace unroll {

LayerNorm::LayerNorm(const NormOptions& options) : eps_(options.eps) {
  if (options.size < 1) fail("LayerNorm", fmt::format("size {}", options.size));
  weight = Parameter(Tensor::full({options.size}, 1.0));
  if (options.bias) bias = Parameter(Tensor::zeros({options.size}));
  add("weight", weight);
  add("bias", bias);
}

Tensor LayerNorm::operator()(const Tensor& x, Where where) const {
  return layer_norm(x, weight, bias.defined() ? Tensor(bias) : Tensor(), eps_, where);
}

ResidualNorm LayerNorm::operator()(const Tensor& x, const Tensor& added, Where where) const {
  return add_layer_norm(x, added, weight, bias.defined() ? Tensor(bias) : Tensor(), eps_, where);
}

std::string LayerNorm::describe() const {
  return fmt::format("LayerNorm({}{})", weight.numel(), bias.defined() ? "" : ", no bias");
}

RMSNorm::RMSNorm(const NormOptions& options) : eps_(options.eps) {
  if (options.size < 1) fail("RMSNorm", fmt::format("size {}", options.size));
  weight = Parameter(Tensor::full({options.size}, 1.0));
  add("weight", weight);
}

Tensor RMSNorm::operator()(const Tensor& x, Where where) const {
  return rms_norm(x, weight, eps_, where);
}

ResidualNorm RMSNorm::operator()(const Tensor& x, const Tensor& added, Where where) const {
  return add_rms_norm(x, added, weight, eps_, where);
}

std::string RMSNorm::describe() const { return fmt::format("RMSNorm({})", weight.numel()); }

}  // namespace unroll
