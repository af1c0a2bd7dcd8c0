#include <fmt/format.h>
#include <unroll/graph/error.h>

namespace unroll {

std::string error_message(std::string_view op, std::string_view problem, const Where* where,
                          std::string_view hint) {
  std::string text = fmt::format("[{}] {}", op, problem);
  if (where != nullptr && where->line() != 0) {
    const std::string_view path = where->file_name();
    text += fmt::format(" ({}:{})", path.substr(path.find_last_of('/') + 1), where->line());
  }
  if (!hint.empty()) text += fmt::format(". {}", hint);
  return text;
}

void fail(std::string_view op, std::string_view problem, const Where& where,
          std::string_view hint) {
  throw Error(error_message(op, problem, &where, hint));
}

void fail(std::string_view op, std::string_view problem, std::string_view hint) {
  throw Error(error_message(op, problem, nullptr, hint));
}

void fail_shape(std::string_view op, std::string_view problem, std::string_view hint) {
  throw ShapeError(error_message(op, problem, nullptr, hint));
}

}  // namespace unroll
