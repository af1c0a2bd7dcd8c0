#include <fmt/format.h>
#include <unroll/compare/inside.h>
#include <unroll/ops/index.h>
#include <unroll/ops/loss.h>
#include <unroll/train/batches.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

// JSON has no infinities: null.
Json number(double x) { return std::isfinite(x) ? Json(x) : Json(); }

Json numbers(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double x : values) list.push_back(number(x));
  return list;
}

// Four places are more than a picture shows.
Json matrix(std::span<const float> values, std::int64_t columns) {
  Json rows = Json::array();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (static_cast<std::int64_t>(i) % columns == 0) rows.push_back(Json::array());
    rows.back().push_back(std::round(static_cast<double>(values[i]) * 1e4) / 1e4);
  }
  return rows;
}

// Both losses, of every step and of the last one alone.
Json flow_json(SequenceModel& model, const Batch& batch) {
  const std::int64_t last = batch.x.size(0) - 1;
  const LayerFlow all = layer_gradient_flow(
      model, batch.x, [&](const Tensor& y) { return cross_entropy(y, batch.y); });
  const LayerFlow end = layer_gradient_flow(model, batch.x, [&](const Tensor& y) {
    return cross_entropy(select(y, 0, last), batch.y.row(last));
  });
  Json layers = Json::array();
  for (std::size_t l = 0; l < all.norms.size(); ++l)
    layers.push_back(
        {{"layer", l}, {"mean", numbers(all.norms[l])}, {"last", numbers(end.norms[l])}});
  return layers;
}

Json gates_json(SequenceModel& model, const Tensor& x) {
  constexpr std::size_t bins = 20;
  Json layers = Json::array();
  for (const auto& gates : gates_along(model, x)) {
    Json layer{{"gates", Json::array()}};
    for (const GateValues& gate : gates) {
      // g and n come from tanh.
      const double low = gate.name == "g" || gate.name == "n" ? -1 : 0;
      layer["gates"].push_back(
          {{"name", gate.name},
           {"keeps", gate.keeps},
           {"low", low},
           {"high", 1},
           {"histogram", numbers(histogram(gate.values, low, 1, bins))},
           {"values", matrix(gate.values.data<float>(), gate.values.size(2))}});
      if (gate.keeps) layer["horizon"] = numbers(memory_horizon(gate.values));
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

Json jacobian_json(SequenceModel& model, const Tensor& x, const InspectOptions& options) {
  Generator generator(options.seed);
  Json layers = Json::array();
  for (const auto& layer : step_jacobians(model, x, generator, options.jacobian)) {
    Json points = Json::array();
    for (const StepJacobian& one : layer)
      points.push_back(
          {{"step", one.step}, {"radius", number(one.radius)}, {"norm", number(one.norm)}});
    layers.push_back(std::move(points));
  }
  const StateGrowth growth = state_growth(model, x, generator);
  return {{"layers", layers},
          {"log_norms", numbers(growth.log_norms)},
          {"lyapunov_exponent", number(growth.exponent)}};
}

Json attention_json(SequenceModel& model, const Tensor& x) {
  Json layers = Json::array();
  for (const Tensor& map : attention_maps(model, x)) {
    Json heads = Json::array();
    const Tensor one = map.row(0);
    for (std::int64_t head = 0; head < one.size(0); ++head) {
      const Tensor weights = one.row(head);
      heads.push_back(matrix(weights.data<float>(), weights.size(1)));
    }
    layers.push_back(std::move(heads));
  }
  return layers;
}

}  // namespace

Json inspect(const LanguageModel& language, std::span<const std::int64_t> tokens,
             const InspectOptions& o) {
  SequenceModel& model = *language.model;
  const ModelConfig& c = language.config;
  const bool bounded = c.kind == ModelKind::transformer && c.positions == Positions::learned;
  const std::int64_t most = bounded ? c.context : std::int64_t{1} << 40;
  const std::int64_t steps = std::min(o.steps, most), context = std::min(o.context, most);
  if (steps < 5 || o.batch < 1 || context < 1 || o.windows < 1)
    fail("inspect", fmt::format("{} steps, {} sequences, a context of {}, {} windows", steps,
                                o.batch, context, o.windows));
  Generator generator(o.seed);
  const Batch batch = RandomWindows(tokens, o.batch, steps).next(generator);
  const Tensor x = Tensor::from(tokens.first(static_cast<std::size_t>(steps)), {steps, 1});

  Json result{{"format", "unroll-inside-1"}, {"model", Json::parse(to_json(c))}};
  const std::vector<std::string> symbols = language.vocabulary.symbols();
  for (const std::int64_t token : x.data<std::int64_t>())
    result["text"].push_back(symbols[static_cast<std::size_t>(token)]);
  result["gradient_flow"] = flow_json(model, batch);
  if (c.kind == ModelKind::lstm || c.kind == ModelKind::gru) result["gates"] = gates_json(model, x);
  if (model.constant_state()) result["jacobian"] = jacobian_json(model, x, o);
  if (c.kind == ModelKind::transformer) result["attention"] = attention_json(model, x);

  std::vector<std::int64_t> contexts;
  for (std::int64_t k = 1; k <= context; k *= 2) contexts.push_back(k);
  const std::int64_t longest = contexts.back();
  const Batch wide = RandomWindows(tokens, o.windows, longest).next(generator);
  for (const ContextPoint& p : effective_context(model, wide.x, contexts, [&](const Tensor& last) {
         return cross_entropy(last, wide.y.row(longest - 1));
       }))
    result["effective_context"].push_back({{"context", p.context}, {"loss", number(p.loss)}});
  return result;
}

}  // namespace unroll
