# Every test case is its own ctest test, labelled "unit"; "slow" are those tagged [slow] and those that
# run programs. Test cases tagged [.] are not registered.
set(test_sources)
set(test_rooms . graph ops layers optim io train compare)
if(TARGET unroll-cli)
  list(APPEND test_rooms cli)
endif()
foreach(room ${test_rooms})
  file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${room}/*.cpp)
  list(APPEND test_sources ${found})
endforeach()
set(test_cases ${test_sources})
list(FILTER test_cases EXCLUDE REGEX "/tests/(\\./)?main\\.cpp$")

if(test_cases)
  find_package(Catch2 REQUIRED)
  include(${Catch2_DIR}/Catch.cmake)

  add_executable(unroll_tests ${test_sources})
  unroll_own_target(unroll_tests)
  target_include_directories(unroll_tests PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(unroll_tests PRIVATE
    UNROLL_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/golden")
  target_link_libraries(unroll_tests PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,unroll>
    $<IF:$<TARGET_EXISTS:Catch2::Catch2WithMain>,Catch2::Catch2WithMain,Catch2::Catch2>
    ZLIB::ZLIB fmt::fmt nlohmann_json::nlohmann_json)
  if(TARGET unroll-cli)
    target_compile_definitions(unroll_tests PRIVATE UNROLL_CLI="$<TARGET_FILE:unroll-cli>")
    add_dependencies(unroll_tests unroll-cli)
  endif()

  # A program that cannot start would be taken for one without tests.
  add_custom_command(TARGET unroll_tests POST_BUILD
    COMMAND unroll_tests --help > ${PROJECT_BINARY_DIR}/unroll_tests.help)

  # Tests run side by side: a thread that waits must not spin on a core that another test needs.
  catch_discover_tests(unroll_tests TEST_SPEC "~[slow]~[.]"
    PROPERTIES LABELS unit ENVIRONMENT OMP_WAIT_POLICY=passive)
  catch_discover_tests(unroll_tests TEST_SPEC "[slow]~[.]"
    PROPERTIES LABELS slow ENVIRONMENT OMP_WAIT_POLICY=passive)
endif()

if(EXISTS ${PROJECT_SOURCE_DIR}/tests/consumer/CMakeLists.txt
    AND EXISTS ${PROJECT_SOURCE_DIR}/unroll/unroll.h)
  add_test(NAME consumer COMMAND ${CMAKE_COMMAND}
    -DBUILD_DIR=${PROJECT_BINARY_DIR} -DCONFIG=$<CONFIG> -DGENERATOR=${CMAKE_GENERATOR}
    -DCXX_COMPILER=${CMAKE_CXX_COMPILER} "-DCXX_FLAGS=${CMAKE_CXX_FLAGS}"
    "-DCXX_FLAGS_DEBUG=${CMAKE_CXX_FLAGS_DEBUG}"
    -P ${PROJECT_SOURCE_DIR}/tests/consumer/run.cmake)
  set_tests_properties(consumer PROPERTIES LABELS slow)
endif()
