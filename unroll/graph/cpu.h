#pragma once

namespace unroll {

/// The processor family that the library's own kernels were compiled for, as given to the build.
const char* built_for();

namespace detail {
// Set in a file compiled like the kernels, read in one compiled for any x86-64.
struct CpuNeeds {
  bool avx2, fma, avx512;
};
extern const CpuNeeds cpu_needs;
}  // namespace detail

}  // namespace unroll
