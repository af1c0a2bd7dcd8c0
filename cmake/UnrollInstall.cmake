include(CMakePackageConfigHelpers)
set(unroll_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Unroll)

install(TARGETS unroll EXPORT UnrollTargets)
if(TARGET unroll-cli)
  install(TARGETS unroll-cli)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/unroll DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h" PATTERN assets EXCLUDE)
install(EXPORT UnrollTargets NAMESPACE unroll:: FILE UnrollExports.cmake
  DESTINATION ${unroll_package_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/UnrollConfig.cmake.in
  ${PROJECT_BINARY_DIR}/UnrollConfig.cmake INSTALL_DESTINATION ${unroll_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/UnrollConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/UnrollConfig.cmake
  ${PROJECT_BINARY_DIR}/UnrollConfigVersion.cmake
  ${PROJECT_SOURCE_DIR}/cmake/UnrollDependencies.cmake DESTINATION ${unroll_package_dir})
