#include <fmt/format.h>
#include <unroll/train/first_difference.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace unroll {
namespace {

using Json = nlohmann::json;

std::string field_apart(const std::string& path, const Json& there, const Json& here) {
  Json names = there;
  names.update(here);
  for (const auto& [name, value] : names.items()) {
    const std::string whole = path + name;
    if (!there.contains(name))
      return fmt::format("{} is missing there and {} here", whole, here.at(name).dump());
    if (!here.contains(name))
      return fmt::format("{} is {} there and missing here", whole, there.at(name).dump());
    const Json &a = there.at(name), &b = here.at(name);
    if (a == b) continue;
    if (a.is_object() && b.is_object()) return field_apart(whole + ".", a, b);
    return fmt::format("{} is {} there and {} here", whole, a.dump(), b.dump());
  }
  return {};
}

// The next line, runs of blanks as one; empty at the end.
std::string next_line(std::istringstream& text) {
  std::string line, words;
  std::getline(text, line);
  std::istringstream all(line);
  for (std::string word; all >> word;) words += (words.empty() ? "" : " ") + word;
  return words;
}

}  // namespace

std::string first_difference(const std::string& there, const std::string& here) {
  if (there == here) return {};
  const Json a = Json::parse(there, nullptr, false), b = Json::parse(here, nullptr, false);
  if (a.is_object() && b.is_object()) return field_apart("", a, b);
  std::istringstream left(there), right(here);
  while (left && right) {
    const std::string one = next_line(left), two = next_line(right);
    if (one != two) return fmt::format("'{}' there and '{}' here", one, two);
  }
  return {};
}

}  // namespace unroll
