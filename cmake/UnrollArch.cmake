# From UNROLL_ARCH:
#   UNROLL_ARCH_FLAGS      compiler flags for the library and for code that uses it
#   UNROLL_BASELINE_FLAGS  flags that undo them, for code that must run on any x86-64
#   UNROLL_ARCH_NAME       what to call the processor in a message

include(CheckCXXCompilerFlag)

set(UNROLL_ARCH_FLAGS)
set(UNROLL_BASELINE_FLAGS)
set(UNROLL_ARCH_NAME "baseline")

if(UNROLL_ARCH)
  set(UNROLL_ARCH_FLAGS -march=${UNROLL_ARCH})
  set(UNROLL_ARCH_NAME ${UNROLL_ARCH})
  # Highway takes a processor without AES for one with SSE4 and four lanes. Every processor of these
  # levels has AES, though the levels do not name it.
  if(UNROLL_ARCH MATCHES "^x86-64-v[34]$")
    list(APPEND UNROLL_ARCH_FLAGS -maes -mpclmul)
  endif()

  string(MAKE_C_IDENTIFIER "UNROLL_HAS_ARCH_${UNROLL_ARCH}" unroll_arch_check)
  check_cxx_compiler_flag("${UNROLL_ARCH_FLAGS}" ${unroll_arch_check})
  if(NOT ${unroll_arch_check})
    message(FATAL_ERROR "The compiler does not know UNROLL_ARCH=${UNROLL_ARCH}")
  endif()

  if(UNROLL_ARCH STREQUAL "native" AND EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo unroll_cpu REGEX "^model name" LIMIT_COUNT 1)
    string(REGEX REPLACE "^model name[ \t]*:" "" unroll_cpu "${unroll_cpu}")
    string(REGEX REPLACE "[^A-Za-z0-9 @.()_-]" "" unroll_cpu "${unroll_cpu}")
    string(STRIP "${unroll_cpu}" unroll_cpu)
    if(unroll_cpu)
      set(UNROLL_ARCH_NAME "native (${unroll_cpu})")
    endif()
  endif()
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(UNROLL_BASELINE_FLAGS -march=x86-64 -mno-aes -mno-pclmul)
endif()
