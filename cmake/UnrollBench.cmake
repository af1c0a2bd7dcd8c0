file(GLOB bench_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/bench/*.cpp)
if(NOT bench_sources)
  return()
endif()
find_package(benchmark REQUIRED)

add_executable(unroll_bench ${bench_sources})
unroll_own_target(unroll_bench)
target_link_libraries(unroll_bench PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,unroll>
  benchmark::benchmark benchmark::benchmark_main fmt::fmt)
