// Compiled for any x86-64, unlike the rest: it must run where the rest cannot.
#include <unroll/graph/cpu.h>

#include <cstdio>
#include <cstdlib>

#ifndef UNROLL_ARCH_NAME
#define UNROLL_ARCH_NAME "this machine"
#endif

namespace unroll {

const char* built_for() { return UNROLL_ARCH_NAME; }

namespace {

// Before any other constructor: those may already hold instructions that this processor lacks,
// and a clear message beats an illegal instruction.
[[gnu::constructor(101)]] void check_cpu() {
#ifdef __x86_64__
  __builtin_cpu_init();  // this may run before its own constructor
  const char* missing = nullptr;
  if (detail::cpu_needs.avx2 && !__builtin_cpu_supports("avx2")) missing = "AVX2";
  if (detail::cpu_needs.fma && !__builtin_cpu_supports("fma")) missing = "FMA";
  if (detail::cpu_needs.avx512 && !__builtin_cpu_supports("avx512bw")) missing = "AVX-512";
  if (missing == nullptr) return;
  std::fprintf(stderr,
               "Unroll was built for the processor '%s', and this one lacks %s.\n"
               "Build it here, or with -DUNROLL_ARCH=x86-64-v3 (AVX2) or -DUNROLL_ARCH=x86-64.\n",
               built_for(), missing);
  std::_Exit(1);
#endif
}

}  // namespace
}  // namespace unroll
