#include <fmt/format.h>
#include <unroll/compare/inside.h>
#include <unroll/ops/index.h>
#include <unroll/ops/loss.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

namespace unroll {
namespace {

using Json = nlohmann::json;

// JSON has no infinities: null. Five digits are more than a picture shows.
Json number(double x) {
  return std::isfinite(x) ? Json(std::stod(fmt::format("{:.5g}", x))) : Json();
}

Json numbers(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double x : values) list.push_back(number(x));
  return list;
}

// Some columns of rows of `width` numbers, to four places.
Json matrix(std::span<const float> values, std::size_t width,
            std::span<const std::size_t> columns) {
  Json rows = Json::array();
  for (std::size_t at = 0; at < values.size(); at += width) {
    Json& row = rows.emplace_back(Json::array());
    for (const std::size_t column : columns)
      row.push_back(number(std::round(static_cast<double>(values[at + column]) * 1e4) / 1e4));
  }
  return rows;
}

std::vector<std::size_t> all_of(std::size_t count) {
  std::vector<std::size_t> all(count);
  std::iota(all.begin(), all.end(), std::size_t{0});
  return all;
}

// At most so many units, evenly from the one that forgets the soonest to the one that does the
// last.
std::vector<std::size_t> some_units(std::size_t count, const std::vector<double>& horizon,
                                    std::size_t most) {
  std::vector<std::size_t> units = all_of(count);
  if (count <= most) return units;
  const auto rank = [&](std::size_t unit) {
    const double own = horizon.empty() ? 0 : horizon[unit];
    return std::isnan(own) ? INFINITY : own;
  };
  std::ranges::stable_sort(units, {}, rank);
  std::vector<std::size_t> some;
  for (std::size_t k = 0; k < most; ++k)
    some.push_back(units[most == 1 ? 0 : k * (count - 1) / (most - 1)]);
  std::ranges::sort(some);
  return some;
}

// A gate's or a tanh's own, or what a candidate without bounds takes up.
std::pair<double, double> range_of(const Tensor& values) {
  double low = 0, high = 1;
  for (const float v : values.data<float>()) {
    if (!std::isfinite(v)) continue;
    low = std::min(low, static_cast<double>(v));
    high = std::max(high, static_cast<double>(v));
  }
  return {low < 0 && low >= -1 ? -1 : low, high};
}

// Both losses, of every step and of the last one alone.
Json flow_json(SequenceModel& model, const InspectSource& source, const Batch& batch) {
  const std::int64_t last = batch.x.size(0) - 1;
  const LayerFlow all =
      layer_gradient_flow(model, batch.x, [&](const Tensor& y) { return source.loss(y, batch.y); });
  const LayerFlow end = layer_gradient_flow(model, batch.x, [&](const Tensor& y) {
    return source.loss(select(y, 0, last), batch.y.row(last));
  });
  Json layers = Json::array();
  for (std::size_t l = 0; l < all.norms.size(); ++l)
    layers.push_back(
        {{"layer", l}, {"mean", numbers(all.norms[l])}, {"last", numbers(end.norms[l])}});
  return layers;
}

Json gates_json(SequenceModel& model, const Tensor& x, std::size_t most_units) {
  constexpr std::size_t bins = 20;
  Json layers = Json::array();
  for (const auto& gates : gates_along(model, x)) {
    Json layer{{"gates", Json::array()}};
    const auto width = static_cast<std::size_t>(gates[0].values.size(2));
    std::vector<double> horizon;
    for (const GateValues& gate : gates) {
      if (gate.values.shape() != gates[0].values.shape())
        fail_shape("inspect",
                   fmt::format("gates {} and {} of a layer are {} and {}", gates[0].name, gate.name,
                               to_string(gates[0].values.shape()), to_string(gate.values.shape())));
      if (gate.keeps) horizon = memory_horizon(gate.values);
    }
    if (!horizon.empty()) layer["horizon"] = numbers(horizon);
    const std::vector<std::size_t> units = some_units(width, horizon, most_units);
    layer["units"] = units;
    for (const GateValues& gate : gates) {
      const auto [low, high] = range_of(gate.values);
      layer["gates"].push_back({{"name", gate.name},
                                {"keeps", gate.keeps},
                                {"low", number(low)},
                                {"high", number(high)},
                                {"histogram", numbers(histogram(gate.values, low, high, bins))},
                                {"values", matrix(gate.values.data<float>(), width, units)}});
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
      const auto steps = static_cast<std::size_t>(weights.size(1));
      heads.push_back(matrix(weights.data<float>(), steps, all_of(steps)));
    }
    layers.push_back(std::move(heads));
  }
  return layers;
}

}  // namespace

std::int64_t longest_sequence(const ModelConfig& c) {
  return c.kind == ModelKind::transformer && c.positions == Positions::learned ? c.context : 0;
}

InspectSource inspect_source(const Vocabulary& vocabulary, std::span<const std::int64_t> tokens,
                             std::int64_t steps) {
  // Throws where they are too few.
  static_cast<void>(RandomWindows(tokens, 1, steps));
  const auto first = tokens.first(static_cast<std::size_t>(steps));
  InspectSource source{
      .x = Tensor::from(first, {steps, 1}),
      .draw = [tokens](std::int64_t batch, std::int64_t count,
                       Generator& g) { return RandomWindows(tokens, batch, count).next(g); },
      .loss = [](const Tensor& output, const Tensor& y) { return cross_entropy(output, y); }};
  const std::vector<std::string> symbols = vocabulary.symbols();
  for (const std::int64_t token : first)
    source.symbols.push_back(symbols[static_cast<std::size_t>(token)]);
  return source;
}

Json inspect(SequenceModel& model, const ModelConfig& c, const InspectSource& source,
             const InspectOptions& o) {
  const std::int64_t steps = std::min(o.steps, source.x.size(0)), context = o.context,
                     longest_seen = longest_sequence(c);
  if (steps < 5 || o.batch < 1 || context < 1 || o.windows < 1 || o.units < 1)
    fail("inspect", fmt::format("{} steps, {} sequences, a context of {}, {} windows, {} units",
                                steps, o.batch, context, o.windows, o.units));
  if (longest_seen > 0 && std::max(steps, context) > longest_seen)
    fail("inspect",
         fmt::format("{} steps and a context of {} for a model that reads {} at the most", steps,
                     context, longest_seen),
         "Ask for fewer");
  Generator generator(o.seed);
  const Batch batch = source.draw(o.batch, steps, generator);
  const Tensor x = source.x.rows(0, steps);

  Json result{{"format", "unroll-inside-1"}, {"model", Json::parse(to_json(c))}};
  if (!source.symbols.empty())
    result["text"] = std::vector(source.symbols.begin(), source.symbols.begin() + steps);
  result["gradient_flow"] = flow_json(model, source, batch);
  if (c.kind == ModelKind::transformer) {
    result["attention"] = attention_json(model, x);
  } else if (c.kind != ModelKind::rnn) {
    result["gates"] = gates_json(model, x, static_cast<std::size_t>(o.units));
  }
  if (model.constant_state()) result["jacobian"] = jacobian_json(model, x, o);

  std::vector<std::int64_t> contexts;
  for (std::int64_t k = 1; k <= context; k *= 2) contexts.push_back(k);
  const std::int64_t longest = contexts.back();
  const Batch wide = source.draw(o.windows, longest, generator);
  for (const ContextPoint& p : effective_context(model, wide.x, contexts, [&](const Tensor& last) {
         return source.loss(last, wide.y.row(longest - 1));
       }))
    result["effective_context"].push_back({{"context", p.context}, {"loss", number(p.loss)}});
  return result;
}

Json inspect(const LanguageModel& language, std::span<const std::int64_t> tokens,
             const InspectOptions& options) {
  return inspect(*language.model, language.config,
                 inspect_source(language.vocabulary, tokens, options.steps), options);
}

}  // namespace unroll
