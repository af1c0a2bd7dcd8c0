#include <fmt/format.h>
#include <unroll/layers/linear.h>
#include <unroll/ops/activated_linear.h>
#include <unroll/ops/matmul.h>

#include <cmath>

namespace unroll {

Linear::Linear(const LinearOptions& options, GeneratorRef generator) {
  if (options.in_features < 1 || options.out_features < 1)
    fail("Linear", fmt::format("sizes must be positive, got {} -> {}", options.in_features,
                               options.out_features));
  const double bound = 1.0 / std::sqrt(static_cast<double>(options.in_features));
  weight =
      Parameter(generator->uniform({options.out_features, options.in_features}, -bound, bound));
  if (options.bias) bias = Parameter(generator->uniform({options.out_features}, -bound, bound));
  add("weight", weight);
  add("bias", bias);
}

Tensor Linear::operator()(const Tensor& x, Where where) const {
  return linear(x, weight, bias.defined() ? Tensor(bias) : Tensor(), where);
}

Tensor Linear::of_activated(Activation f, const Tensor& x, Where where) const {
  return activated_linear(f, x, weight, bias.defined() ? Tensor(bias) : Tensor(), where);
}

std::string Linear::describe() const {
  return fmt::format("Linear({} -> {}{})", weight.shape()[1], weight.shape()[0],
                     bias.defined() ? "" : ", no bias");
}

}  // namespace unroll
