#include "options.h"

#include <fmt/format.h>
#include <unroll/graph/error.h>
#include <unroll/io/atomic_file.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace unroll::cli {
namespace {

// The whole text as a number?
template <class T>
bool parse(const std::string& text, T& value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end;
}

template <class T>
CLI::Validator number(const std::string& kind, const std::string& bounds,
                      std::function<bool(T)> accepts) {
  return {[=](std::string& text) {
            T value{};
            if (parse(text, value) && accepts(value)) return std::string();
            return fmt::format("'{}' is not a {} {}", text, kind, bounds);
          },
          ""};
}

template <class T>
std::string bounds(T low, T high) {
  return high == std::numeric_limits<T>::max() ? fmt::format("of {} or more", low)
                                               : fmt::format("from {} to {}", low, high);
}

}  // namespace

CLI::Validator whole(std::int64_t low, std::int64_t high) {
  return number<std::int64_t>("whole number", bounds(low, high),
                              [=](std::int64_t value) { return value >= low && value <= high; });
}

CLI::Validator positive(double high) {
  const bool any = high == std::numeric_limits<double>::max();
  return number<double>("number", any ? "above 0" : fmt::format("above 0, up to {}", high),
                        [=](double value) { return value > 0 && value <= high; });
}

CLI::Validator real(double low, double high) {
  return number<double>("number", bounds(low, high),
                        [=](double value) { return value >= low && value <= high; });
}

void only_if(bool applies, const CLI::App& command, std::initializer_list<const char*> options,
             const std::string& where) {
  if (applies) return;
  for (const char* option : options)
    if (command.count(option) > 0)
      fail(command.get_name(), fmt::format("{} does nothing {}", option, where), "Leave it away");
}

std::int64_t warmup_steps(const CLI::App& command, std::int64_t warmup, std::int64_t steps) {
  if (command.count("--warmup") == 0) return std::min(warmup, steps / 2);
  if (warmup >= steps)
    fail(command.get_name(), fmt::format("a warm-up of {} steps in {}", warmup, steps),
         "Give a shorter --warmup, or more --steps");
  return warmup;
}

std::string fingerprint(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

void write_page(const std::filesystem::path& file, const std::string& page) {
  write_file_atomically(file, page);
  fmt::print("report: {}\n", file.string());
}

OutputFolder::OutputFolder(std::filesystem::path path) : path_(std::move(path)) {
  if (path_.empty()) fail("output", "no folder is named");
  path_ = std::filesystem::absolute(path_).lexically_normal();
  if (!path_.has_filename()) path_ = path_.parent_path();  // "folder/"
  above_ = path_;
  std::error_code error;
  while (!std::filesystem::exists(above_, error) && above_.has_relative_path())
    above_ = above_.parent_path();
  std::filesystem::create_directories(path_, error);
  if (error)
    fail("output", fmt::format("cannot make the folder '{}': {}", path_.string(), error.message()));
  try {
    const AtomicFile trial(path_ / "trial");  // never committed
  } catch (...) {
    remove_if_empty();
    throw;
  }
}

void OutputFolder::remove_if_empty() const {
  std::error_code error;
  for (auto made = path_; made != above_ && !error; made = made.parent_path())
    if (!std::filesystem::remove(made, error)) break;
}

}  // namespace unroll::cli
