#include <fmt/format.h>
#include <unroll/graph/error.h>
#include <unroll/graph/precision.h>

namespace unroll {

Bf16Support bf16_support() {
  Bf16Support support;
#ifdef UNROLL_ONEDNN
  support.onednn = true;
#endif
#ifdef __x86_64__
  support.processor = __builtin_cpu_supports("avx512bf16") != 0;
#endif
  return support;
}

void check_precision(DType precision, const Bf16Support& support) {
  if (precision == DType::f32) return;
  if (precision != DType::bf16)
    fail("precision", fmt::format("products run in f32 or bf16, not in {}", to_string(precision)),
         "f64 tensors are multiplied in f64 whatever the precision");
  if (!support.onednn)
    fail("precision", "bf16 needs oneDNN, which this build lacks",
         "Build with -DUNROLL_ONEDNN=ON, or use f32");
  if (!support.processor)
    fail("precision", "bf16 needs a processor with AVX512-BF16 or AMX, and this one has neither",
         "Use f32");
}

}  // namespace unroll
