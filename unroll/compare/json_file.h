#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace unroll::detail {

// What results.json and inside.json have in common.

/// Refuses JSON that is not what a page of the docs promises.
class JsonCheck {
 public:
  /// `what` is refused with `hint`; both outlive this.
  JsonCheck(const char* what, const char* hint) : what_(what), hint_(hint) {}
  /// Throws DataError.
  [[noreturn]] void refuse(const std::string& problem) const;
  /// The same, which is a list. Loops over an object's members, a null's nothing and a number
  /// itself are all possible: not here.
  const nlohmann::json& list(const nlohmann::json& json) const;
  /// A list of measurements.
  void all_measured(const nlohmann::json& json) const;

 private:
  const char* what_;
  const char* hint_;
};

/// Throws json's exception. A measurement that was not finite is null: a gap, not an error.
void check_measured(const nlohmann::json& json);

/// One line for each thing, lists of plain values on one.
std::string readable(const nlohmann::json& json);

/// The page of this name (an asset) with all that it names as /*{{file}}*/ put in, and the data in
/// the place of "{{data}}". It needs nothing else.
std::string self_contained_page(std::string_view name, const nlohmann::json& data);

}  // namespace unroll::detail
