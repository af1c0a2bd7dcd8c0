# Highway's headers, without its library: Highway::Highway.
find_path(Highway_INCLUDE_DIR hwy/highway.h)
mark_as_advanced(Highway_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Highway
  REQUIRED_VARS Highway_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "On Debian: apt install libhwy-dev")

if(Highway_FOUND AND NOT TARGET Highway::Highway)
  add_library(Highway::Highway INTERFACE IMPORTED)
  set_target_properties(Highway::Highway PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${Highway_INCLUDE_DIR}")
  if(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL)
    set_target_properties(Highway::Highway PROPERTIES IMPORTED_GLOBAL TRUE)
  endif()
endif()
