#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>

namespace unroll::detail {

/// The bits of a bf16: the upper half of an f32.
using Bf16 = std::uint16_t;

/// values [count] rounded to the nearest bf16, ties to the even one; NaN stays NaN.
Tensor rounded_to_bf16(const float* values, std::int64_t count);

}  // namespace unroll::detail
