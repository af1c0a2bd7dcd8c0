#include <fmt/format.h>
#include <unroll/train/first_difference.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

namespace unroll {
namespace {

using Json = nlohmann::json;

constexpr std::size_t most_shown = 60;  // bytes of a value

// The text from `begin` on, neither end within a character of several bytes.
std::string excerpt(const std::string& text, std::size_t begin) {
  const auto inside = [&](std::size_t i) {
    return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80;
  };
  while (begin > 0 && inside(begin)) --begin;
  std::size_t end = std::min(text.size(), begin + most_shown);
  while (inside(end)) --end;
  return (begin > 0 ? "..." : "") + text.substr(begin, end - begin) +
         (end < text.size() ? "..." : "");
}

// Two values where they first differ, if they are long.
std::string apart(const std::string& name, const std::string& there, const std::string& here) {
  constexpr std::size_t before = 10;
  const auto first = static_cast<std::size_t>(
      std::mismatch(there.begin(), there.end(), here.begin(), here.end()).first - there.begin());
  const bool fit = std::max(there.size(), here.size()) <= most_shown;
  const std::size_t begin = fit || first < most_shown / 2 ? 0 : first - before;
  return fmt::format("{} is {} there and {} here", name, excerpt(there, begin),
                     excerpt(here, begin));
}

std::string field_apart(const std::string& path, const Json& there, const Json& here);

// Of two values that differ.
std::string value_apart(const std::string& name, const Json& there, const Json& here) {
  if (there.is_object() && here.is_object()) return field_apart(name + ".", there, here);
  if (!there.is_array() || !here.is_array()) return apart(name, there.dump(), here.dump());
  for (std::size_t i = 0; i < std::min(there.size(), here.size()); ++i)
    if (there[i] != here[i]) return value_apart(fmt::format("{}[{}]", name, i), there[i], here[i]);
  return fmt::format("{} has {} elements there and {} here", name, there.size(), here.size());
}

std::string field_apart(const std::string& path, const Json& there, const Json& here) {
  Json names = there;
  names.update(here);
  for (const auto& [name, value] : names.items()) {
    const std::string whole = path + name;
    if (!there.contains(name))
      return fmt::format("{} is missing there and {} here", whole, excerpt(here[name].dump(), 0));
    if (!here.contains(name))
      return fmt::format("{} is {} there and missing here", whole, excerpt(there[name].dump(), 0));
    if (there[name] != here[name]) return value_apart(whole, there[name], here[name]);
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
