#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/parameter.h>

#include <vector>

namespace unroll {

struct GradientNoiseOptions {
  double eta = 0;       ///< the variance in step 0; the paper takes 0.01, 0.3 or 1
  double gamma = 0.55;  ///< how fast it falls
};

/// Adds normal noise of variance eta / (1 + step)^gamma to every element of every gradient
/// (Neelakantan et al., "Adding gradient noise improves learning for very deep networks", 2015).
/// Behind clipping it keeps its size. Parameters without gradients draw nothing. Throws Error for
/// eta, gamma or a step below 0, and for a parameter given twice.
void add_gradient_noise(const std::vector<Parameter>& parameters,
                        const GradientNoiseOptions& options, std::int64_t step,
                        Generator& generator);

}  // namespace unroll
