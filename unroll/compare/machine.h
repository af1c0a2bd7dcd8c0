#pragma once

#include <nlohmann/json_fwd.hpp>

namespace unroll {

/// Processor, cores, memory, and what the library was built for and with.
nlohmann::json machine_description(int threads);

}  // namespace unroll
