#include <unroll/graph/cpu.h>

namespace unroll::detail {

extern constinit const CpuNeeds cpu_needs{
#ifdef __AVX2__
    .avx2 = true,
#else
    .avx2 = false,
#endif
#ifdef __FMA__
    .fma = true,
#else
    .fma = false,
#endif
#ifdef __AVX512BW__
    .avx512 = true,
#else
    .avx512 = false,
#endif
};

}  // namespace unroll::detail
