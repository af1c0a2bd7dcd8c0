#pragma once

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace unroll {

/// The caller's file and line; every public op takes one by default.
using Where = std::source_location;

/// Anything that a user did or gave that Unroll cannot work with. The message reads
/// "[op] what was wrong, with shapes (file:line). What to try."
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Shapes that do not fit the op they were given to.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// Malformed input data: files, text, configuration.
class DataError : public Error {
 public:
  using Error::Error;
};

/// The message "[op] problem (file:line). hint".
std::string error_message(std::string_view op, std::string_view problem, const Where* where,
                          std::string_view hint);

[[noreturn]] void fail(std::string_view op, std::string_view problem, const Where& where,
                       std::string_view hint = {});
[[noreturn]] void fail(std::string_view op, std::string_view problem, std::string_view hint = {});
[[noreturn]] void fail_shape(std::string_view op, std::string_view problem,
                             std::string_view hint = {});

}  // namespace unroll
