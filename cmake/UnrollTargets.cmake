# Flags that Unroll's own targets share.

# -march for one processor name. Highway takes x86-64-v2 to -v4 for SSSE3 (4 lanes) unless AES is on;
# the levels do not contain it, their processors do.
function(unroll_arch_flags arch result)
  set(flags)
  if(arch MATCHES "^x86-64-v[234]$")
    set(flags -march=${arch} -maes -mpclmul)
  elseif(arch)
    set(flags -march=${arch})
  endif()
  set(${result} ${flags} PARENT_SCOPE)
endfunction()

# Fields side by side, as a tensor's two pointers, are not to be moved as one vector: the load waits
# for both stores, which took a seventh of a recorded op's time. Loops are vectorised all the same.
# Thread-local state lies at a fixed place from its thread's own: it is read by every op.
set(unroll_code_flags -fno-tree-slp-vectorize -ftls-model=initial-exec)

# Warnings are errors where Unroll is the project, never where it is a part of another one; nor under
# the sanitizers, which make the compiler see uninitialised values that are none.
function(unroll_own_target target)
  target_compile_options(${target} PRIVATE -Wall -Wextra ${unroll_code_flags})
  set_target_properties(${target} PROPERTIES COMPILE_WARNING_AS_ERROR ${UNROLL_WERROR})
endfunction()
