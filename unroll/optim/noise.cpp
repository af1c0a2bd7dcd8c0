#include <fmt/format.h>
#include <unroll/graph/accumulate.h>
#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/optim/noise.h>
#include <unroll/optim/optimizer.h>

#include <cmath>

namespace unroll {

void add_gradient_noise(const std::vector<Parameter>& parameters,
                        const GradientNoiseOptions& options, std::int64_t step,
                        Generator& generator) {
  constexpr const char* op = "add_gradient_noise";
  if (!(options.eta >= 0) || !(options.gamma >= 0) || step < 0)
    fail(op, fmt::format("eta {}, gamma {}, step {}", options.eta, options.gamma, step),
         "None of them is negative");
  check_distinct(op, parameters);
  if (options.eta == 0) return;
  const double variance = options.eta / std::pow(1.0 + static_cast<double>(step), options.gamma);
  const MemoryScope scope(MemoryKind::gradient);
  const NoGrad constant;
  for (const Parameter& parameter : parameters) {
    Tensor& grad = parameter.state()->grad;
    if (!grad.defined()) continue;
    const Tensor noise = generator.normal(grad.shape(), 0, std::sqrt(variance), grad.dtype());
    accumulate_into(grad, noise);
  }
}

}  // namespace unroll
