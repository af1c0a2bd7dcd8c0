#pragma once

#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace unroll {

/// The caller's file and line; every public op takes one by default.
#ifdef __cpp_lib_source_location
using Where = std::source_location;
#else
// Clang before 15, and its tools, lack what std::source_location is made of.
class Where {
 public:
  static constexpr Where current(const char* file = __builtin_FILE(),
                                 std::uint_least32_t line = __builtin_LINE()) {
    Where where;
    where.file_ = file;
    where.line_ = line;
    return where;
  }
  constexpr const char* file_name() const { return file_; }
  constexpr std::uint_least32_t line() const { return line_; }

 private:
  const char* file_ = "";
  std::uint_least32_t line_ = 0;
};
#endif

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
