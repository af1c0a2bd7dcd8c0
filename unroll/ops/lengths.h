#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>

namespace unroll {

// What a padded batch's lengths [B] (i64 or i32) say, for ops and layers that take them.

/// Throws Error naming `op` where there is not one length, i64 or i32, for each of the `batch`
/// rows, or one is not within 0 to steps. Of abstract lengths only the shape is looked at.
void check_lengths(const char* op, const Tensor& lengths, std::int64_t steps, std::int64_t batch,
                   const Where& where);

/// [steps, B, 1]: 1 while a row's sequence lasts, 0 behind its end. Throws as check_lengths().
Tensor length_mask(const char* op, const Tensor& lengths, std::int64_t steps, std::int64_t batch,
                   DType dtype, const Where& where);

/// The last P steps that each row has seen, [B, P, D]: of `past` [B, P, D] and x [T, B, D] behind
/// it, up to the row's length (undefined: up to T). What a causal convolution or a token shift
/// carries on. The lengths have been checked by length_mask().
Tensor last_steps(const Tensor& past, const Tensor& x, const Tensor& lengths,
                  Where where = Where::current());

}  // namespace unroll
