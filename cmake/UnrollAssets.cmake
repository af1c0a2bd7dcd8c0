# Files that are built into the library: Chart.js and unroll/compare/assets/*. Writes a source that
# defines unroll::asset(name); sets UNROLL_ASSETS_SOURCE.
find_file(UNROLL_CHART_JS NAMES chart.umd.min.js chart.umd.js chart.min.js Chart.min.js
  PATHS /usr/share/javascript/chart.js /usr/share/javascript/chartjs /usr/share/nodejs/chart.js/dist
  NO_DEFAULT_PATH DOC "Chart.js, minified, as one script (UMD)")
if(NOT UNROLL_CHART_JS)
  message(FATAL_ERROR
    "Unroll needs Chart.js (Debian: libjs-chart.js), or -DUNROLL_CHART_JS=/path/to/chart.umd.js.")
endif()

file(GLOB unroll_asset_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/unroll/compare/assets/*)
set(bytes "")
set(declarations "")
set(entries "")
set(number 0)
foreach(file ${UNROLL_CHART_JS} ${unroll_asset_files})
  if(file STREQUAL UNROLL_CHART_JS)
    set(name chart.js)
  else()
    cmake_path(GET file FILENAME name)
  endif()
  set(symbol unroll_asset_${number})
  math(EXPR number "${number} + 1")
  string(APPEND bytes "    UNROLL_BYTES(\"${symbol}\", \"${file}\")\n")
  string(APPEND declarations
    "extern \"C\" [[gnu::visibility(\"hidden\")]] const char ${symbol}[], ${symbol}_end[];\n")
  string(APPEND entries "    {\"${name}\", ${symbol}, ${symbol}_end},\n")
endforeach()

set(UNROLL_ASSETS_SOURCE ${PROJECT_BINARY_DIR}/assets.cpp)
configure_file(${PROJECT_SOURCE_DIR}/cmake/assets.cpp.in ${UNROLL_ASSETS_SOURCE} @ONLY)
set_source_files_properties(${UNROLL_ASSETS_SOURCE} PROPERTIES
  OBJECT_DEPENDS "${UNROLL_CHART_JS};${unroll_asset_files}")
