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

std::string self_contained_page(const Page& page, const Json& data) {
  constexpr std::string_view open = "/*{{", close = "}}*/";
  const std::string_view source = asset("page.html");
  std::string text;
  std::size_t from = 0;
  // What is put in is looked through no more: the data may hold anything.
  for (std::size_t at; (at = source.find(open, from)) != std::string_view::npos;) {
    text += source.substr(from, at - from);
    const std::size_t begin = at + open.size(), end = source.find(close, begin);
    const std::string_view name = source.substr(begin, end - begin);
    if (name == "title") {
      text += page.title;
    } else if (name == "main") {
      text += asset(page.main);
    } else if (name == "data") {
      text += embeddable(data);
    } else if (name == "scripts") {
      for (const std::string_view script : page.scripts) text += asset(script);
    } else {
      text += asset(name);
    }
    from = end + close.size();
  }
  return text.append(source.substr(from));
}

}  // namespace unroll::detail
