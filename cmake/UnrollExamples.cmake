# One program per file, linked as a user would link it, and run quickly as a test.
file(GLOB example_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/examples/*.cpp)
find_package(CLI11 REQUIRED)
foreach(source ${example_sources})
  cmake_path(GET source STEM name)
  add_executable(example_${name} ${source})
  set_target_properties(example_${name} PROPERTIES OUTPUT_NAME ${name}
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/examples)
  unroll_own_target(example_${name})
  target_link_libraries(example_${name} PRIVATE unroll::unroll CLI11::CLI11)
  if(UNROLL_BUILD_TESTS)
    add_test(NAME example_${name} COMMAND example_${name} --quick
      WORKING_DIRECTORY ${PROJECT_BINARY_DIR}/examples)
    add_test(NAME example_${name}_refuses COMMAND example_${name} --quick --nonsense)
    set_tests_properties(example_${name}_refuses PROPERTIES WILL_FAIL TRUE)
    set_tests_properties(example_${name} example_${name}_refuses PROPERTIES LABELS slow
      ENVIRONMENT OMP_WAIT_POLICY=passive)
  endif()
endforeach()
