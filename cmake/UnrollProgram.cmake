file(GLOB cli_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cli/*.cpp)
if(NOT cli_sources)
  return()
endif()
find_package(CLI11 REQUIRED)

add_executable(unroll-cli ${cli_sources})
set_target_properties(unroll-cli PROPERTIES OUTPUT_NAME unroll)
unroll_own_target(unroll-cli)
target_compile_definitions(unroll-cli PRIVATE UNROLL_VERSION="${PROJECT_VERSION}")
# Ops register themselves with static objects, which a plain link of the archive would drop.
target_link_libraries(unroll-cli PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,unroll>
  CLI11::CLI11 fmt::fmt nlohmann_json::nlohmann_json)
