# Installs the build to a fresh prefix, then builds and runs this folder's project against it.

set(work "${BUILD_DIR}/consumer")
file(REMOVE_RECURSE "${work}")

execute_process(
  COMMAND "${CMAKE_COMMAND}" --install "${BUILD_DIR}" --config "${CONFIG}" --prefix "${work}/prefix"
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(
  COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${work}/build" -G "${GENERATOR}"
    "-DCMAKE_BUILD_TYPE=${CONFIG}"
    "-DCMAKE_CXX_COMPILER=${CXX_COMPILER}"
    "-DCMAKE_CXX_FLAGS=${CXX_FLAGS}"
    "-DCMAKE_CXX_FLAGS_DEBUG=${CXX_FLAGS_DEBUG}"
    "-DCMAKE_PREFIX_PATH=${work}/prefix"
    -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(
  COMMAND "${CMAKE_COMMAND}" --build "${work}/build" --config "${CONFIG}"
  COMMAND_ERROR_IS_FATAL ANY)
find_program(consumer consumer
  PATHS "${work}/build" "${work}/build/${CONFIG}" NO_DEFAULT_PATH REQUIRED)
execute_process(COMMAND "${consumer}" COMMAND_ERROR_IS_FATAL ANY)
