#pragma once

#include <unroll/train/model_dir.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace unroll::cli {

/// What commands that look at a saved language model are given: its folder, and a text.
struct ModelTextArguments {
  std::string folder, text;
  double part = 1.0;  ///< the share of the text, its last, that is read
};

/// --model-dir, --text and --last.
void add_model_text(CLI::App& command, ModelTextArguments& arguments);

struct ModelText {
  LanguageModel model;
  std::vector<std::int64_t> tokens;  ///< of the part
};

/// Throws DataError for files that are no model or no text.
ModelText load_model_text(const ModelTextArguments& arguments);

}  // namespace unroll::cli
