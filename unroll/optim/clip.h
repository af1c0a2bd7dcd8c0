#pragma once

#include <unroll/graph/parameter.h>

#include <vector>

namespace unroll {

/// Scales all gradients by one factor so that their common Euclidean norm is at most `max_norm`
/// (Pascanu et al., "On the difficulty of training recurrent neural networks", 2013), and returns
/// the norm as it was before. Summed in double, in a fixed order. A norm that is not finite is
/// returned and the gradients stay as they are, for the caller to skip the step. Parameters
/// without gradients do not count. Throws Error for max_norm < 0 and for a parameter given twice.
double clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm);

/// Limits every element of every gradient to [-limit, limit]; NaN stays NaN. Throws Error for
/// limit < 0 and for a parameter given twice.
void clip_grad_value(const std::vector<Parameter>& parameters, double limit);

}  // namespace unroll
