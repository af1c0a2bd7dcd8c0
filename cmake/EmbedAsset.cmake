# Files built into a target as functions of unroll/compare/assets.h.
#
# Included, it defines find_chart_js and embed_asset. Run by cmake -P with INPUT, OUTPUT and
# FUNCTION, it writes the source file of one asset; without INPUT that of an empty one.

if(CMAKE_SCRIPT_MODE_FILE)
  set(text "\"\"")
  if(INPUT)
    file(READ "${INPUT}" text HEX)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "\\\\x\\1" text "${text}")
    # Lines of 24 bytes, which the compiler joins.
    string(REPEAT "[^\n]" 96 line)
    string(REGEX REPLACE "(${line})" "\\1\"\n    \"" text "${text}")
    set(text "\"${text}\"")
  endif()
  file(WRITE "${OUTPUT}" "// Made by cmake/EmbedAsset.cmake.
#include <unroll/compare/assets.h>

namespace unroll::compare {

static constexpr char bytes[] =
    ${text};

std::string_view ${FUNCTION}() { return {bytes, sizeof bytes - 1}; }

}  // namespace unroll::compare
")
  return()
endif()

set(UNROLL_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

# The minified Chart.js, under the names that its versions and packages give it.
function(find_chart_js variable)
  find_file(${variable}
    NAMES chart.umd.min.js chart.min.js Chart.min.js chart.umd.js chart.js Chart.js
    PATHS /usr/share/javascript/chart.js /usr/share/nodejs/chart.js/dist
    NO_DEFAULT_PATH
    DOC "Chart.js, built into the reports")
  mark_as_advanced(${variable})
  if(NOT ${variable})
    message(FATAL_ERROR
      "Chart.js not found. On Debian: apt install libjs-chart.js; or set ${variable} to its file")
  endif()
endfunction()

# Adds `std::string_view unroll::compare::<function>()` with the file's bytes to the target; with
# none if the file does not exist.
function(embed_asset target function file)
  set(output ${PROJECT_BINARY_DIR}/assets/${function}.cpp)
  set(input)
  file(GLOB present CONFIGURE_DEPENDS ${file})
  if(present)
    set(input ${file})
  endif()
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DINPUT=${input} -DOUTPUT=${output} -DFUNCTION=${function}
            -P ${UNROLL_EMBED_SCRIPT}
    DEPENDS ${input} ${UNROLL_EMBED_SCRIPT}
    COMMENT "Embedding ${function}"
    VERBATIM)
  target_sources(${target} PRIVATE ${output})
endfunction()
