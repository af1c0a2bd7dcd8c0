set(unroll_sources)
foreach(room graph ops layers optim io train compare)
  file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/unroll/${room}/*.cpp)
  list(APPEND unroll_sources ${found})
endforeach()
if(NOT unroll_sources)
  return()
endif()

include(CheckCXXCompilerFlag)
include(UnrollAssets)
find_package(nlohmann_json REQUIRED)

add_library(unroll ${unroll_sources} ${UNROLL_ASSETS_SOURCE})
add_library(unroll::unroll ALIAS unroll)
set_target_properties(unroll PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0)
unroll_own_target(unroll)

target_compile_features(unroll PUBLIC cxx_std_20)
target_include_directories(unroll PUBLIC
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

# The lambdas that users give to pointwise are compiled in their files, and must see vectors as wide as
# the library's: what fixes the width is public.
unroll_arch_flags("${UNROLL_ARCH}" unroll_arch)
target_compile_options(unroll PUBLIC ${unroll_arch})
target_compile_definitions(unroll PUBLIC HWY_COMPILE_ONLY_STATIC)

target_link_libraries(unroll
  PUBLIC hwy::hwy OpenMP::OpenMP_CXX Threads::Threads
  PRIVATE unroll::openblas unroll::sndfile unroll::kissfft ZLIB::ZLIB fmt::fmt
          $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
if(UNROLL_ONEDNN)
  target_link_libraries(unroll PRIVATE unroll::onednn)
  target_compile_definitions(unroll PRIVATE UNROLL_ONEDNN=1)
endif()

# Matrix tiles: what uses them is compiled for them, and run only where there are some.
if(UNROLL_AMX AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(unroll_amx -mamx-tile -mamx-bf16 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16)
  string(REPLACE ";" " " flags "${unroll_amx}")
  check_cxx_compiler_flag("${flags}" UNROLL_COMPILER_HAS_AMX)
  if(UNROLL_COMPILER_HAS_AMX)
    set_source_files_properties(${PROJECT_SOURCE_DIR}/unroll/ops/amx.cpp
      ${PROJECT_SOURCE_DIR}/unroll/ops/amx_pack.cpp PROPERTIES
      COMPILE_OPTIONS "${unroll_amx}" COMPILE_DEFINITIONS UNROLL_AMX=1)
    set_source_files_properties(${PROJECT_SOURCE_DIR}/unroll/ops/amx_available.cpp PROPERTIES
      COMPILE_DEFINITIONS UNROLL_AMX=1)
  endif()
endif()

# cpu.cpp tells a user that the library was built for another processor, so it must run on any.
set(unroll_cpu ${PROJECT_SOURCE_DIR}/unroll/graph/cpu.cpp)
set_source_files_properties(${unroll_cpu} PROPERTIES
  COMPILE_DEFINITIONS "UNROLL_ARCH_NAME=\"${UNROLL_ARCH}\"")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${unroll_cpu} PROPERTIES
    COMPILE_OPTIONS "-march=x86-64;-mno-aes;-mno-pclmul")
endif()
