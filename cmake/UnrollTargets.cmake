# Flags that Unroll's own targets share.

# -march for one processor name. Highway takes x86-64-v3 and -v4 for SSE4 (4 lanes) unless AES is on,
# and every processor of those levels has it.
function(unroll_arch_flags arch result)
  if(arch STREQUAL "" OR arch STREQUAL "x86-64")
    set(flags)
    if(arch AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      set(flags -march=x86-64)
    endif()
  elseif(arch MATCHES "^x86-64-v[34]$")
    set(flags -march=${arch} -maes -mpclmul)
  else()
    set(flags -march=${arch})
  endif()
  set(${result} ${flags} PARENT_SCOPE)
endfunction()

# Warnings are errors where Unroll is the project, never where it is a part of another one.
function(unroll_own_target target)
  target_compile_options(${target} PRIVATE -Wall -Wextra)
  set_target_properties(${target} PROPERTIES COMPILE_WARNING_AS_ERROR ${PROJECT_IS_TOP_LEVEL})
endfunction()
