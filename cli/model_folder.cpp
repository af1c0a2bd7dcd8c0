#include "model_folder.h"

#include <fmt/format.h>
#include <unroll/graph/error.h>
#include <unroll/io/text.h>
#include <unroll/train/checkpoint.h>
#include <unroll/train/first_difference.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace unroll::cli {
namespace {

// ": hidden is 8 there and 9 here"; of fingerprints there is nothing to tell.
std::string difference(const std::string& there, const std::string& here) {
  if (!nlohmann::json::parse(here, nullptr, false).is_object()) return {};
  return ": " + first_difference(there, here);
}

}  // namespace

std::filesystem::path checkpoint_in(const std::filesystem::path& folder) {
  return folder / "checkpoint.safetensors";
}

void check_model_folder(const std::string& command, const std::filesystem::path& folder,
                        const std::map<std::string, std::string>& identity) {
  const auto refuse = [&](const std::string& what) {
    fail(command, fmt::format("'{}' holds {}", folder.string(), what),
         "Name another folder with --out, or remove this one");
  };
  const std::filesystem::path config = folder / "config.json", checkpoint = checkpoint_in(folder);
  if (std::filesystem::exists(config)) {
    const auto there = nlohmann::json::parse(read_text(config), nullptr, false);
    if (!there.is_object() || !there.contains("model")) refuse("a config.json of something else");
    for (const auto& [name, value] : identity)  // the file has no data's
      if (there.contains(name) && there[name] != nlohmann::json::parse(value))
        refuse((name == "model" ? "another model" : "a model of another " + name) +
               difference(there[name].dump(), value));
  }
  if (std::filesystem::exists(checkpoint)) {
    const auto there = checkpoint_identity(checkpoint);
    for (const auto& [name, value] : identity)
      if (const auto found = there.find(name); found == there.end() || found->second != value)
        refuse("a run of another " + name +
               (found == there.end() ? "" : difference(found->second, value)));
  }
}

void check_resumable(const std::string& command,
                     const std::vector<std::filesystem::path>& folders) {
  const bool any = std::ranges::any_of(
      folders, [](const auto& folder) { return std::filesystem::exists(checkpoint_in(folder)); });
  if (any) return;
  fail(command,
       fmt::format("there is no checkpoint to resume from: no '{}'{}",
                   checkpoint_in(folders.front()).string(),
                   folders.size() > 1 ? ", nor in the other runs' folders" : ""),
       "Name the folder of the run with --out, or leave --resume away");
}

}  // namespace unroll::cli
