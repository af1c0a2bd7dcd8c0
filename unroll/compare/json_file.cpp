#include <unroll/compare/assets.h>
#include <unroll/compare/json_file.h>
#include <unroll/graph/error.h>

#include <algorithm>

namespace unroll::detail {
namespace {

using Json = nlohmann::json;

bool plain(const Json& json) {
  return std::ranges::none_of(json, [](const Json& one) { return one.is_structured(); });
}

void write(const Json& json, std::size_t depth, std::string& text) {
  if (!json.is_structured() || plain(json)) {
    text += json.dump();
    return;
  }
  text += json.is_object() ? '{' : '[';
  const char* between = "\n";
  for (const auto& [key, value] : json.items()) {
    text += between;
    text.append(depth + 1, ' ');
    if (json.is_object()) text += Json(key).dump() + ": ";
    write(value, depth + 1, text);
    between = ",\n";
  }
  text += json.is_object() ? '}' : ']';
}

// JSON inside a <script>: a "</script>" in a file's name must not end it.
std::string embeddable(const Json& json) {
  std::string text;
  for (const char c : json.dump()) {
    if (c == '<') {
      text += "\\u003c";
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace

void JsonCheck::refuse(const std::string& problem) const {
  throw DataError(error_message(what_, problem, nullptr, hint_));
}

const Json& JsonCheck::list(const Json& json) const {
  if (!json.is_array()) refuse("a list is no list: " + json.dump().substr(0, 40));
  return json;
}

void check_measured(const Json& json) {
  if (!json.is_null()) json.get<double>();
}

void JsonCheck::all_measured(const Json& json) const {
  for (const Json& one : list(json)) check_measured(one);
}

std::string readable(const Json& json) {
  std::string text;
  write(json, 0, text);
  return text;
}

std::string self_contained_page(std::string_view name, const Json& data) {
  constexpr std::string_view open = "/*{{", close = "}}*/", place = "\"{{data}}\"";
  const std::string_view source = asset(name);
  std::string page;
  std::size_t from = 0;
  // What is put in is looked through no more: the data may hold anything.
  while (from < source.size()) {
    const std::size_t file = source.find(open, from), here = source.find(place, from);
    const std::size_t next = std::min(file, here);
    page += source.substr(from, next == std::string_view::npos ? next : next - from);
    if (next == std::string_view::npos) break;
    if (next == here) {
      page += embeddable(data);
      from = here + place.size();
      continue;
    }
    const std::size_t begin = file + open.size(), end = source.find(close, begin);
    page += asset(source.substr(begin, end - begin));
    from = end + close.size();
  }
  return page;
}

}  // namespace unroll::detail
