#pragma once

#include <unroll/graph/shape.h>

namespace unroll {

/// What products in bf16 need of the build and of the processor.
struct Bf16Support {
  bool onednn = false;     ///< built with UNROLL_ONEDNN
  bool processor = false;  ///< AVX512-BF16; every processor with AMX has it too
  bool complete() const { return onednn && processor; }
};

/// Of this build, on this processor.
Bf16Support bf16_support();

/// Throws Error unless `precision` is f32, or bf16 where that is supported.
void check_precision(DType precision, const Bf16Support& support = bf16_support());

}  // namespace unroll
