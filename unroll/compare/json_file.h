#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

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

/// A page on the assets' page.html: files are named as there.
struct Page {
  std::string_view title;
  std::string_view main;                  ///< what its <main> holds
  std::vector<std::string_view> scripts;  ///< of its own, in order; `data` is what it shows
};
/// Puts the parts and the data into the template. The page needs nothing else.
std::string self_contained_page(const Page& page, const nlohmann::json& data);

}  // namespace unroll::detail
