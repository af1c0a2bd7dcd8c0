// Compiled like the rest, unlike what it decides about.
#include <unroll/ops/amx.h>

#if defined(UNROLL_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace unroll::detail::amx {
namespace {

bool has(unsigned leaf, unsigned subleaf, unsigned (&registers)[4], int which, unsigned bits) {
  auto& [a, b, c, d] = registers;
  return __get_cpuid_count(leaf, subleaf, &a, &b, &c, &d) != 0 && (registers[which] & bits) == bits;
}

bool allowed() {
  enum : int { eax, ebx, ecx, edx };
  constexpr unsigned amx = 1U << 24 | 1U << 22;  // tiles, and bf16 on them
  constexpr unsigned avx512_bf16 = 1U << 5;
  unsigned registers[4] = {};
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
      !has(7, 0, registers, edx, amx) || !has(7, 1, registers, eax, avx512_bf16))
    return false;
  // Linux saves a process's tiles only from when it has asked.
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

}  // namespace

bool available() {
  static const bool yes = allowed();
  return yes;
}

}  // namespace unroll::detail::amx

#else

namespace unroll::detail::amx {
bool available() { return false; }
}  // namespace unroll::detail::amx

#endif
