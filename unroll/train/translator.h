#pragma once

#include <unroll/io/tokens.h>
#include <unroll/train/pairs.h>
#include <unroll/train/search.h>
#include <unroll/train/seq2seq.h>

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace unroll {

/// An encoder-decoder with its vocabularies: config.json and model.safetensors in one folder.
struct Translator {
  Seq2SeqConfig config;
  TokenVocabulary source, target;
  std::unique_ptr<Seq2Seq> model;

  SequencePair encode(const std::string& from, const std::string& to) const {
    return {source.encode(from), target.encode(to)};
  }
};

std::string to_json(const Seq2SeqConfig& config);

/// Makes the folder where it is missing; each file is written whole or not at all.
void save_translator(const std::filesystem::path& folder, const Translator& translator);
/// Throws DataError where a file is missing or malformed or the two do not belong together.
Translator load_translator(const std::filesystem::path& folder);

/// The symbols of the best hypothesis for each line, in their order; of an empty line none. `batch`
/// lines of similar length are searched together.
std::vector<std::vector<std::int64_t>> translate_lines(Translator& translator,
                                                       std::span<const std::string> lines,
                                                       const SearchOptions& options = {},
                                                       std::int64_t batch = 64);

}  // namespace unroll
