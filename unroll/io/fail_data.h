#pragma once

#include <unroll/graph/error.h>

#include <string_view>

namespace unroll {

/// For malformed or unreadable input: throws DataError "[op] problem. hint".
[[noreturn]] inline void fail_data(std::string_view op, std::string_view problem,
                                   std::string_view hint = {}) {
  throw DataError(error_message(op, problem, nullptr, hint));
}

}  // namespace unroll
