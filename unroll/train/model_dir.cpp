#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/io/atomic_file.h>
#include <unroll/io/safetensors.h>
#include <unroll/train/first_difference.h>
#include <unroll/train/model_dir.h>
#include <unroll/train/stream.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

constexpr std::pair<Positions, const char*> position_names[] = {
    {Positions::learned, "learned"},
    {Positions::rotary, "rotary"},
    {Positions::sinusoidal, "sinusoidal"}};

Json config_json(const ModelConfig& c) {
  Json json{{"kind", to_string(c.kind)},
            {"vocabulary", c.vocabulary},
            {"features", c.features},
            {"outputs", c.outputs},
            {"embedding", c.embedding},
            {"hidden", c.hidden},
            {"layers", c.layers},
            {"heads", c.heads},
            {"context", c.context},
            {"dropout", c.dropout},
            {"bias", c.bias},
            {"tied", c.tied}};
  for (const auto& [value, name] : position_names)
    if (value == c.positions) json["positions"] = name;
  if (c.window > 0) json["window"] = c.window;
  if (c.layer_norm) json["layer_norm"] = true;
  for (const auto& [name, value] : Regularization::fields())
    if (c.regularization.*value != 0) json["regularization"][name] = c.regularization.*value;
  return json;
}

// Of a model's configuration, what neither the names nor the shapes of its parameters tell.
std::string untold(const Json& config) {
  Json part;
  for (const char* name : {"kind", "heads", "positions"}) part[name] = config.at(name);
  return part.dump();
}

std::int64_t size_from(const Json& json, const char* key) {
  const Json& found = json.at(key);
  constexpr std::int64_t most = 1 << 24;
  if (!found.is_number_integer() || found < 0 || found > most)
    throw DataError(error_message(
        "config", fmt::format("{} is {}, no whole number up to {}", key, found.dump(), most),
        nullptr, ""));
  return found.get<std::int64_t>();
}

ModelConfig config_from(const Json& json) {
  ModelConfig c;
  const auto kind = json.at("kind").get<std::string>();
  try {
    c.kind = model_kind(kind);
  } catch (const Error& error) {
    throw DataError(error.what());
  }
  c.vocabulary = size_from(json, "vocabulary");
  c.features = size_from(json, "features");
  c.outputs = size_from(json, "outputs");
  c.embedding = size_from(json, "embedding");
  c.hidden = size_from(json, "hidden");
  c.layers = static_cast<int>(size_from(json, "layers"));
  c.heads = size_from(json, "heads");
  c.context = size_from(json, "context");
  json.at("dropout").get_to(c.dropout);
  json.at("bias").get_to(c.bias);
  json.at("tied").get_to(c.tied);
  // Files of models without them do not have these.
  if (json.contains("window")) c.window = size_from(json, "window");
  if (json.contains("layer_norm")) json.at("layer_norm").get_to(c.layer_norm);
  if (json.contains("regularization")) {
    std::size_t known = 0;
    for (const auto& [name, value] : Regularization::fields())
      if (json.at("regularization").contains(name)) {
        json.at("regularization").at(name).get_to(c.regularization.*value);
        ++known;
      }
    if (known != json.at("regularization").size() || !json.at("regularization").is_object())
      throw DataError(error_message(
          "config", "unknown in regularization: " + json.at("regularization").dump(), nullptr, ""));
  }
  const auto positions = json.at("positions").get<std::string>();
  for (const auto& [value, name] : position_names)
    if (positions == name) {
      c.positions = value;
      return c;
    }
  throw DataError(error_message("config", "unknown positions '" + positions + "'", nullptr, ""));
}

template <class F>
auto parsed(const std::string& where, F&& f) {
  try {
    return f();
  } catch (const Json::exception& error) {
    throw DataError(error_message("config", fmt::format("{}: {}", where, error.what()), nullptr,
                                  "docs/models.md describes the file"));
  }
}

std::int64_t draw(const Tensor& logits, double temperature, Generator& generator) {
  const std::span<const float> values = logits.data<float>();
  const auto best = std::max_element(values.begin(), values.end());
  if (temperature == 0) return best - values.begin();
  std::vector<double> weights;
  double sum = 0;
  for (float value : values)
    sum += weights.emplace_back(std::exp((static_cast<double>(value) - *best) / temperature));
  double left = generator.uniform() * sum;
  for (std::size_t i = 0; i < weights.size(); ++i)
    if ((left -= weights[i]) < 0) return static_cast<std::int64_t>(i);
  return best - values.begin();
}

}  // namespace

std::string to_json(const ModelConfig& config) { return config_json(config).dump(2); }

ModelConfig config_from_json(const std::string& text) {
  return parsed("config", [&] { return config_from(Json::parse(text)); });
}

void save_model(const std::filesystem::path& folder, const ModelConfig& config,
                const Vocabulary& vocabulary, const SequenceModel& model) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw DataError(error_message(
        "save_model", fmt::format("cannot make '{}': {}", folder.string(), error.message()),
        nullptr, ""));
  const Json json{{"format", "unroll-model-1"},
                  {"model", config_json(config)},
                  {"vocabulary", Json::parse(vocabulary.to_json())}};
  save_safetensors(folder / "model.safetensors", model.state_dict(),
                   {{"model", untold(config_json(config))}});
  write_file_atomically(folder / "config.json", json.dump(2) + "\n");
}

LanguageModel load_model(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  const std::string text = read_text(file);
  LanguageModel result;
  parsed(file.string(), [&] {
    const Json json = Json::parse(text);
    if (json.at("format") != "unroll-model-1")
      throw DataError(
          error_message("config", file.string() + ": not a model of this format", nullptr, ""));
    result.config = config_from_json(json.at("model").dump());
    result.vocabulary = Vocabulary::from_json(json.at("vocabulary").dump());
    return 0;
  });
  if (result.vocabulary.size() != result.config.vocabulary)
    throw DataError(error_message("config",
                                  fmt::format("{}: {} symbols for a model of {}", file.string(),
                                              result.vocabulary.size(), result.config.vocabulary),
                                  nullptr, ""));
  std::map<std::string, std::string> metadata;
  const StateDict state = load_safetensors(folder / "model.safetensors", &metadata);
  double numbers = 0;
  for (const auto& [name, tensor] : state) numbers += static_cast<double>(tensor.numel());
  Generator generator;
  try {
    // Before anything of that size is made.
    if (parameter_count(result.config) > numbers)
      fail("model", fmt::format("a model of {:.0f} parameters, of which the file has {:.0f}",
                                parameter_count(result.config), numbers));
    // Files written by others need not say it.
    if (const auto told = metadata.find("model"); told != metadata.end())
      if (const std::string apart =
              first_difference(told->second, untold(config_json(result.config)));
          !apart.empty())
        fail("model", "model.safetensors is of another model than config.json: " + apart);
    result.model = make_model(result.config, generator);
    result.model->load_state_dict(state);
  } catch (const Error& error) {
    throw DataError(error_message("load_model",
                                  fmt::format("'{}': {}", folder.string(), error.what()), nullptr,
                                  "config.json and model.safetensors do not belong together"));
  }
  result.model->eval();
  return result;
}

std::optional<std::int64_t> room_behind(const ModelConfig& config, std::int64_t prompt) {
  if (config.kind != ModelKind::transformer || config.positions != Positions::learned)
    return std::nullopt;
  return config.context + 1 - prompt;  // the last symbol is drawn, not read
}

std::string generate(LanguageModel& model, const std::string& prompt, std::int64_t count,
                     double temperature, Generator& generator) {
  if (!(temperature >= 0) || !std::isfinite(temperature))
    fail("generate", fmt::format("temperature {} is not 0 or above", temperature));
  if (count < 0) fail("generate", fmt::format("{} symbols", count));
  const std::vector<std::int64_t> start = model.vocabulary.encode(prompt);
  if (start.empty())
    fail("generate", "an empty prompt", "Give one character or more, a newline for instance");
  const ModelConfig& c = model.config;
  const auto room = room_behind(c, static_cast<std::int64_t>(start.size()));
  if (room && count > *room)
    fail("generate",
         fmt::format("{} symbols after a prompt of {} pass the model's context of {}", count,
                     start.size(), c.context),
         "Ask for fewer, or train with rotary positions");
  const NoGrad constant;
  model.model->eval();
  const bool attends = c.kind == ModelKind::transformer;
  const auto length = static_cast<std::int64_t>(start.size()) + count;
  Stream stream(*model.model, {.window = attends && c.window == 0 ? length : 0});
  Tensor token = Tensor::empty({1}, DType::i64);
  const auto next = [&](std::int64_t symbol) {
    token.mutable_ptr<std::int64_t>()[0] = symbol;
    return stream.step(token);
  };
  Tensor output;
  for (std::int64_t symbol : start) output = next(symbol);
  std::vector<std::int64_t> drawn;
  for (std::int64_t i = 0; i < count; ++i) {
    drawn.push_back(draw(output.row(0), temperature, generator));
    if (i + 1 < count) output = next(drawn.back());
  }
  return model.vocabulary.decode(drawn);
}

}  // namespace unroll
