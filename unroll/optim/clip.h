#pragma once

#include <unroll/graph/parameter.h>

#include <vector>

namespace unroll {

/// The sum of a gradient's squares, f32 or f64: in double, in a fixed order.
double squared_norm(const Tensor& grad);

/// What clip_grad_norm() multiplies gradients of this norm by: 1 where it is not above the limit or
/// not finite.
double clip_factor(double norm, double max_norm);

/// Scales all gradients by one factor so that their common Euclidean norm is at most `max_norm`
/// (Pascanu et al., "On the difficulty of training recurrent neural networks", 2013), and returns
/// the norm as it was before. Optimizer::step({.clip_norm = ...}) does it without a pass of its
/// own. A norm that is not finite is returned and the gradients stay as they are, for the caller to
/// skip the step. Parameters without gradients do not count. Throws Error for max_norm < 0 and for
/// a parameter given twice.
double clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm);

/// Limits every element of every gradient to [-limit, limit]; NaN stays NaN. Throws Error for
/// limit < 0 and for a parameter given twice.
void clip_grad_value(const std::vector<Parameter>& parameters, double limit);

}  // namespace unroll
