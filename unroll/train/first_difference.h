#pragma once

#include <string>

namespace unroll {

/// Where two descriptions first differ: of JSON objects the field, "hidden is 64 there and 128
/// here", an array's element, and of a long value the part; of other texts the line. Empty where
/// they are equal.
std::string first_difference(const std::string& there, const std::string& here);

}  // namespace unroll
