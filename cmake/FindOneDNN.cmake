# oneDNN: OneDNN::OneDNN. Not through its own package file, which on Debian also asks for the
# development files of OpenCL.
find_path(OneDNN_INCLUDE_DIR dnnl.hpp)
find_library(OneDNN_LIBRARY dnnl)
mark_as_advanced(OneDNN_INCLUDE_DIR OneDNN_LIBRARY)

foreach(file IN ITEMS oneapi/dnnl/dnnl_version.h dnnl_version.h)
  if(OneDNN_INCLUDE_DIR AND NOT OneDNN_VERSION AND EXISTS "${OneDNN_INCLUDE_DIR}/${file}")
    set(OneDNN_numbers)
    foreach(part IN ITEMS MAJOR MINOR PATCH)
      file(STRINGS "${OneDNN_INCLUDE_DIR}/${file}" OneDNN_line
        REGEX "#define DNNL_VERSION_${part} +[0-9]+")
      if(OneDNN_line MATCHES "([0-9]+)$")
        list(APPEND OneDNN_numbers ${CMAKE_MATCH_1})
      endif()
    endforeach()
    list(JOIN OneDNN_numbers "." OneDNN_VERSION)
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OneDNN
  REQUIRED_VARS OneDNN_LIBRARY OneDNN_INCLUDE_DIR
  VERSION_VAR OneDNN_VERSION
  REASON_FAILURE_MESSAGE "On Debian: apt install libdnnl-dev, or build with -DUNROLL_ONEDNN=OFF")

if(OneDNN_FOUND AND NOT TARGET OneDNN::OneDNN)
  add_library(OneDNN::OneDNN UNKNOWN IMPORTED)
  set_target_properties(OneDNN::OneDNN PROPERTIES
    IMPORTED_LOCATION "${OneDNN_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${OneDNN_INCLUDE_DIR}")
  if(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL)
    set_target_properties(OneDNN::OneDNN PROPERTIES IMPORTED_GLOBAL TRUE)
  endif()
endif()
