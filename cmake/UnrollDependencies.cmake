# What the library itself needs. Included by the build and, installed, by find_package(Unroll):
# one place knows how each part is found.
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(hwy CONFIG REQUIRED)
find_package(fmt REQUIRED)
find_package(ZLIB REQUIRED)

# oneDNN and OpenBLAS come with package files that differ from system to system (or ask for OpenCL);
# a header and a library are all that is needed.
function(unroll_find_part name header library hint)
  if(TARGET unroll::${name})
    return()
  endif()
  string(TOUPPER ${name} upper)
  find_path(UNROLL_${upper}_INCLUDE_DIR ${header})
  find_path(UNROLL_${upper}_INCLUDE_DIR ${header} PATH_SUFFIXES ${ARGN})
  find_library(UNROLL_${upper}_LIBRARY ${library})
  find_library(UNROLL_${upper}_LIBRARY ${library} PATH_SUFFIXES ${ARGN})
  mark_as_advanced(UNROLL_${upper}_INCLUDE_DIR UNROLL_${upper}_LIBRARY)
  if(NOT UNROLL_${upper}_INCLUDE_DIR OR NOT UNROLL_${upper}_LIBRARY)
    message(FATAL_ERROR "Unroll needs ${header} and lib${library} (Debian: ${hint}).")
  endif()
  add_library(unroll::${name} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(unroll::${name} PROPERTIES
    IMPORTED_LOCATION "${UNROLL_${upper}_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${UNROLL_${upper}_INCLUDE_DIR}")
endfunction()

unroll_find_part(openblas cblas.h openblas libopenblas-dev openblas openblas-pthread openblas-openmp)
if(UNROLL_ONEDNN)
  unroll_find_part(onednn dnnl.hpp dnnl "libdnnl-dev, or build with -DUNROLL_ONEDNN=OFF")
endif()
unroll_find_part(sndfile sndfile.h sndfile libsndfile1-dev)
unroll_find_part(kissfft kiss_fftr.h kissfft-float libkissfft-dev kissfft)
