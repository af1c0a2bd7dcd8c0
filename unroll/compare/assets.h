#pragma once

#include <string_view>

namespace unroll {

/// The bytes of a file that was built into the library: "chart.js" (Chart.js, one script), or any
/// file of unroll/compare/assets by its name. Throws Error for an unknown name.
std::string_view asset(std::string_view name);

}  // namespace unroll
