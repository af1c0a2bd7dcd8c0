#pragma once

#include <unroll/graph/tensor.h>

#include <functional>
#include <span>
#include <vector>

namespace unroll {

/// A function of tensors, as gradient checks call it. It must compute the same at every call.
using TensorFunction = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

/// Checks the gradients of `f` at `inputs`, which must be f64 where they are differentiated and
/// lie away from kinks: the largest |analytic - numeric| / max(1, |analytic|, |numeric|) over
/// the whole Jacobian of all floating outputs by the inputs `wrt`. The numeric side is a central
/// difference, extrapolated once (Richardson), so that a right gradient gives about 1e-9.
double gradient_error(const TensorFunction& f, std::span<const Tensor> inputs,
                      std::span<const std::size_t> wrt);

/// The gradients by the inputs `wrt` of f's floating outputs, weighted with fixed random numbers,
/// as a function: given to gradient_error it checks second derivatives.
TensorFunction gradient_of(const TensorFunction& f, std::vector<std::size_t> wrt);

}  // namespace unroll
