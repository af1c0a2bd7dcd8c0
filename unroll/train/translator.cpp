#include <fmt/format.h>
#include <unroll/io/atomic_file.h>
#include <unroll/io/fail_data.h>
#include <unroll/io/safetensors.h>
#include <unroll/io/text.h>
#include <unroll/train/translator.h>

#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

constexpr const char* format = "unroll-seq2seq-1";

Json config_json(const Seq2SeqConfig& c) {
  return {{"kind", to_string(c.kind)},
          {"source_vocabulary", c.source_vocabulary},
          {"target_vocabulary", c.target_vocabulary},
          {"embedding", c.embedding},
          {"hidden", c.hidden},
          {"layers", c.layers},
          {"heads", c.heads},
          {"attention", to_string(c.attention)},
          {"dropout", c.dropout}};
}

Seq2SeqConfig config_from(const Json& json) {
  const auto size = [&](const char* key) {
    const Json& found = json.at(key);
    constexpr std::int64_t most = 1 << 24;
    if (!found.is_number_integer() || found < 0 || found > most)
      fail_data("config",
                fmt::format("{} is {}, no whole number up to {}", key, found.dump(), most));
    return found.get<std::int64_t>();
  };
  return {.kind = seq2seq_kind(json.at("kind").get<std::string>()),
          .source_vocabulary = size("source_vocabulary"),
          .target_vocabulary = size("target_vocabulary"),
          .embedding = size("embedding"),
          .hidden = size("hidden"),
          .layers = static_cast<int>(size("layers")),
          .heads = size("heads"),
          .attention = attention_score(json.at("attention").get<std::string>()),
          .dropout = json.at("dropout").get<double>()};
}

// The least that a model of this config has, so that no file makes us build a giant.
double least_parameters(const Seq2SeqConfig& c) {
  const double h = static_cast<double>(c.hidden);
  const auto vocabularies = static_cast<double>(c.source_vocabulary + c.target_vocabulary);
  const bool transformer = c.kind == ModelKind::transformer;
  return vocabularies * (transformer ? h : static_cast<double>(c.embedding)) + c.layers * h * h;
}

[[noreturn]] void malformed(const std::filesystem::path& folder, const std::string& what) {
  fail_data("load_translator", fmt::format("'{}': {}", folder.string(), what),
            "docs/seq2seq.md describes the files");
}

}  // namespace

std::string to_json(const Seq2SeqConfig& config) { return config_json(config).dump(2); }

void save_translator(const std::filesystem::path& folder, const Translator& translator) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    fail_data("save_translator",
              fmt::format("cannot make '{}': {}", folder.string(), error.message()));
  const Json json{{"format", format},
                  {"model", config_json(translator.config)},
                  {"source", Json::parse(translator.source.to_json())},
                  {"target", Json::parse(translator.target.to_json())}};
  save_safetensors(folder / "model.safetensors", translator.model->state_dict());
  write_file_atomically(folder / "config.json", json.dump(2) + "\n");
}

Translator load_translator(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  const std::string text = read_text(file);
  try {
    const Json json = Json::parse(text);
    if (json.at("format") != format) malformed(folder, "config.json is not of an encoder-decoder");
    Translator result{.config = config_from(json.at("model")),
                      .source = TokenVocabulary::from_json(json.at("source").dump()),
                      .target = TokenVocabulary::from_json(json.at("target").dump()),
                      .model = nullptr};
    const Seq2SeqConfig& c = result.config;
    if (result.source.size() != c.source_vocabulary || result.target.size() != c.target_vocabulary)
      malformed(folder,
                fmt::format("{} and {} symbols for a model of {} and {}", result.source.size(),
                            result.target.size(), c.source_vocabulary, c.target_vocabulary));
    const StateDict state = load_safetensors(folder / "model.safetensors");
    double numbers = 0;
    for (const auto& [name, tensor] : state) numbers += static_cast<double>(tensor.numel());
    if (least_parameters(c) > numbers)
      malformed(folder,
                fmt::format("a model of {:.0f} parameters or more, of which the file has {:.0f}",
                            least_parameters(c), numbers));
    Generator generator;
    result.model = make_seq2seq(c, generator);
    result.model->load_state_dict(state);
    result.model->eval();
    return result;
  } catch (const Json::exception& error) {
    malformed(folder, error.what());
  } catch (const DataError&) {
    throw;
  } catch (const Error& error) {
    malformed(folder, error.what());
  }
}

std::vector<std::vector<std::int64_t>> translate_lines(Translator& translator,
                                                       std::span<const std::string> lines,
                                                       const SearchOptions& options,
                                                       std::int64_t batch) {
  std::vector<SequencePair> pairs;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::vector<std::int64_t> source = translator.source.encode(lines[i]);
    if (source.empty()) continue;
    pairs.push_back({std::move(source), {}});
    places.push_back(i);
  }
  std::vector<std::vector<std::int64_t>> results(lines.size());
  for (const auto& indices : length_batches(pairs, batch)) {
    std::vector<std::vector<std::int64_t>> sources;
    for (const std::size_t i : indices) sources.push_back(pairs[i].source);
    const PairBatch together = source_batch(sources);
    const auto found = translate(*translator.model, together.source, together.lengths, options);
    for (std::size_t i = 0; i < indices.size(); ++i)
      results[places[indices[i]]] = found[i].at(0).tokens;
  }
  return results;
}

}  // namespace unroll
