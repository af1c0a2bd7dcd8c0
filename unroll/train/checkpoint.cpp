#include <fmt/format.h>
#include <unroll/io/safetensors.h>
#include <unroll/train/checkpoint.h>
#include <unroll/train/first_difference.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

Json to_json(const Generator& generator) {
  return {{"seed", generator.seed()}, {"position", generator.position()}};
}

Generator generator_from(const Json& json) {
  Generator generator(json.at("seed").get<std::uint64_t>());
  generator.seek(json.at("position").get<std::uint64_t>());
  return generator;
}

// The entries whose name begins with `prefix`, without it.
StateDict below(const StateDict& all, const std::string& prefix) {
  StateDict part;
  for (const auto& [name, tensor] : all)
    if (name.starts_with(prefix)) part[name.substr(prefix.size())] = tensor;
  return part;
}

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw DataError(error_message("checkpoint", fmt::format("'{}': {}", path, what), nullptr,
                                "It is not a checkpoint of this run; give another file"));
}

}  // namespace

void save_checkpoint(const std::string& path, Module& model, Optimizer& optimizer,
                     const Generator& generator, const TrainProgress& progress) {
  StateDict tensors;
  for (auto& [name, tensor] : model.state_dict()) tensors["model." + name] = tensor;
  for (auto& [name, tensor] : optimizer.state_dict()) tensors["optimizer." + name] = tensor;
  const Carried& carried = progress.carried;
  for (std::size_t k = 0; k < carried.state.size(); ++k)
    tensors[fmt::format("state.{}", k)] = carried.state[k];
  if (carried.past.defined()) tensors["past"] = carried.past;
  Json json{{"step", progress.step},
            {"tokens", progress.tokens},
            {"seconds", progress.seconds},
            {"best", progress.best},
            {"since_best", progress.since_best},
            {"running", progress.running},
            {"interval_sum", progress.interval_sum},
            {"interval_steps", progress.interval_steps},
            {"peak_bytes", progress.peak_bytes},
            {"identity", progress.identity},
            {"layers", model.summary()},
            {"learning_rate", optimizer.learning_rate()},
            {"generator", to_json(generator)},
            {"generators", Json::object()},
            {"curve", Json::array()}};
  for (auto& [name, one] : model.generators()) json["generators"][name] = to_json(*one);
  for (const TrainPoint& p : progress.curve)
    json["curve"].push_back({p.step, p.tokens, p.seconds, p.train_loss, p.validation_loss});
  save_safetensors(path, tensors, {{"training", json.dump()}});
}

bool load_checkpoint(const std::string& path, Module& model, Optimizer& optimizer,
                     Generator& generator, TrainProgress& progress) {
  if (!std::filesystem::exists(path)) return false;
  std::map<std::string, std::string> metadata;
  const StateDict tensors = load_safetensors(path, &metadata);
  const auto malformed = [&](const std::string& what) { refuse(path, what); };
  if (!metadata.contains("training")) malformed("has no training metadata");
  TrainProgress restored;
  restored.identity = progress.identity;
  Generator drawn;
  std::vector<std::pair<Generator*, Generator>> inner;
  double rate = 0;
  try {
    const Json json = Json::parse(metadata["training"]);
    const auto number = [](const Json& value) {  // JSON writes NaN as null
      return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
    };
    restored.step = json.at("step");
    restored.tokens = json.at("tokens");
    restored.seconds = json.at("seconds");
    restored.best = number(json.at("best"));
    restored.since_best = json.at("since_best");
    // Files of earlier versions lack these: the first interval then counts from the resumption.
    restored.running = json.value("running", 0.0);
    restored.interval_sum = json.value("interval_sum", 0.0);
    restored.interval_steps = json.value("interval_steps", std::int64_t{0});
    restored.peak_bytes = json.value("peak_bytes", std::int64_t{0});
    const Json identity = json.value("identity", Json::object());
    for (const auto& [name, value] : progress.identity) {
      if (!identity.contains(name)) malformed(fmt::format("does not say of which {} it is", name));
      if (identity.at(name) != value)
        malformed(fmt::format("is of another {}: {}", name,
                              first_difference(identity.at(name).get<std::string>(), value)));
    }
    // Layers of other kinds can have the names and shapes of these.
    if (json.contains("layers"))
      if (const auto apart = first_difference(json.at("layers"), model.summary()); !apart.empty())
        malformed("is of another model: " + apart);
    rate = json.at("learning_rate");
    drawn = generator_from(json.at("generator"));
    for (auto& [name, one] : model.generators())
      inner.emplace_back(one, generator_from(json.at("generators").at(name)));
    for (const Json& p : json.at("curve"))
      restored.curve.push_back({.step = p.at(0),
                                .tokens = p.at(1),
                                .seconds = p.at(2),
                                .train_loss = number(p.at(3)),
                                .validation_loss = number(p.at(4))});
  } catch (const Json::exception& error) {
    malformed(error.what());
  }
  const StateDict state = below(tensors, "state.");
  for (std::size_t k = 0; state.contains(std::to_string(k)); ++k)
    restored.carried.state.push_back(state.at(std::to_string(k)));
  if (const auto past = tensors.find("past"); past != tensors.end())
    restored.carried.past = past->second;
  const StateDict before = model.state_dict();
  try {
    model.load_state_dict(below(tensors, "model."));
    optimizer.load_state_dict(below(tensors, "optimizer."));
  } catch (const Error& error) {
    model.load_state_dict(before);
    malformed(error.what());
  }
  optimizer.set_learning_rate(rate);
  generator = drawn;
  for (auto& [target, value] : inner) *target = value;
  progress = std::move(restored);
  return true;
}

std::map<std::string, std::string> checkpoint_identity(const std::string& path) {
  std::map<std::string, std::string> metadata;
  load_safetensors(path, &metadata);
  if (!metadata.contains("training")) refuse(path, "has no training metadata");
  try {
    return Json::parse(metadata["training"]).value("identity", Json::object());
  } catch (const Json::exception& error) {
    refuse(path, error.what());
  }
}

}  // namespace unroll
