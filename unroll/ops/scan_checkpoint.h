#pragma once

#include <unroll/ops/scan.h>

namespace unroll {

/// scan() with options.checkpoint_every, which is at least 1 and less than T; mask [T, B, 1] or
/// undefined. Throws Error for a cell that draws random numbers: it would draw others when it is
/// computed again.
Output checkpointed_scan(const Cell& cell, const Tensor& xs, const State& state, const Tensor& mask,
                         const ScanOptions& options, const Where& where);

}  // namespace unroll
