#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <string>

namespace unroll::cli {

/// Whether a run of this identity (see TrainOptions) may write its model to a folder, and continue
/// what is there if it is to. Throws Error where the folder holds another model, or a run on other
/// data: told by its config.json and its checkpoint.
void check_model_folder(const std::string& command, const std::filesystem::path& folder,
                        const std::map<std::string, std::string>& identity);

/// Throws Error where there is no checkpoint in any of the folders that --resume is to continue in.
void check_resumable(const std::string& command, const std::vector<std::filesystem::path>& folders);

/// The file of a run's folder from which it can be continued.
std::filesystem::path checkpoint_in(const std::filesystem::path& folder);

}  // namespace unroll::cli
