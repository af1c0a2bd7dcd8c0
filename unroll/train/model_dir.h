#pragma once

#include <unroll/io/text.h>
#include <unroll/train/sequence_model.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace unroll {

/// A trained language model and what is needed to use it: config.json and model.safetensors in one
/// folder (docs/models.md lists the names).
struct LanguageModel {
  ModelConfig config;
  Vocabulary vocabulary = Vocabulary::bytes();
  std::unique_ptr<SequenceModel> model;
};

std::string to_json(const ModelConfig& config);
/// Throws DataError for what to_json() would not write.
ModelConfig config_from_json(const std::string& text);

/// Makes the folder where it is missing; each file is written whole or not at all.
void save_model(const std::filesystem::path& folder, const ModelConfig& config,
                const Vocabulary& vocabulary, const SequenceModel& model);
/// Throws DataError where a file is missing or malformed or the two do not belong together.
LanguageModel load_model(const std::filesystem::path& folder);

/// How many symbols generate() can draw behind a prompt of so many: a table of learned positions
/// ends with the context it was trained for; nothing: any number.
std::optional<std::int64_t> room_behind(const ModelConfig& config, std::int64_t prompt);

/// Continues `prompt` by `count` symbols, drawn from softmax(logits / temperature); temperature 0
/// takes the most likely one. One step at a time: a recurrent model's cost per symbol is constant.
/// Throws DataError for a prompt with characters the model does not know, Error for more symbols
/// than there is room for behind it.
std::string generate(LanguageModel& model, const std::string& prompt, std::int64_t count,
                     double temperature, Generator& generator);

}  // namespace unroll
