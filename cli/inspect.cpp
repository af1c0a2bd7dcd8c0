#include <fmt/format.h>
#include <unroll/compare/inside.h>
#include <unroll/compare/json_file.h>
#include <unroll/graph/threads.h>
#include <unroll/io/atomic_file.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "model_text.h"
#include "options.h"

namespace unroll::cli {
namespace {

using Json = nlohmann::json;

struct Arguments : ModelTextArguments {
  std::string out = "inside.json";
  int threads = 1;
  InspectOptions options;
};

double measured(const Json& x) { return x.is_null() ? NAN : x.get<double>(); }

// The middle one of the numbers that are there; infinite where most are not.
double median(const Json& list) {
  std::vector<double> values;
  for (const Json& one : list) values.push_back(one.is_null() ? INFINITY : one.get<double>());
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

void print(const Json& inside) {
  if (inside.contains("gates"))
    for (std::size_t l = 0; l < inside["gates"].size(); ++l) {
      if (!inside["gates"][l].contains("horizon")) continue;
      const Json& horizon = inside["gates"][l]["horizon"];
      const auto longer = std::ranges::count_if(
          horizon, [](const Json& h) { return h.is_null() || h.get<double>() > 10; });
      fmt::print("layer {}: memory horizon {:.2f} steps (median unit), above 10 in {} of {}\n",
                 l + 1, median(horizon), longer, horizon.size());
    }
  if (inside.contains("jacobian")) {
    const Json& layers = inside["jacobian"]["layers"];
    for (std::size_t l = 0; l < layers.size(); ++l) {
      Json radii = Json::array();
      for (const Json& one : layers[l]) radii.push_back(one["radius"]);
      fmt::print("layer {}: spectral radius {:.3f} (median step)\n", l + 1, median(radii));
    }
    const Json& exponent = inside["jacobian"]["lyapunov_exponent"];
    if (!exponent.is_null())
      fmt::print("Lyapunov exponent {:.4f} a step\n", exponent.get<double>());
  }
  for (const Json& layer : inside["gradient_flow"]) {
    const Json& norms = layer["last"];
    fmt::print("{} {}: |d last loss / d h| {:.2e} at the last step, {:.2e} {} before\n",
               layer["layer"] == 0 ? "input" : "layer", layer["layer"].dump(),
               measured(norms.back()), measured(norms.front()), norms.size() - 1);
  }
  for (const Json& p : inside["effective_context"])
    fmt::print("context {:>5}: loss {:.4f}\n", p["context"].get<std::int64_t>(),
               measured(p["loss"]));
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto* command = app.add_subcommand("inspect", "Looks inside a saved model while it reads a text");
  const auto a = std::make_shared<Arguments>();
  add_model_text(*command, *a);
  command->add_option("--steps", a->options.steps, "Of the sequence that is looked at")
      ->check(whole(5, 1'000'000));
  command->add_option("--batch", a->options.batch, "Sequences whose gradients are added up")
      ->check(whole(1, 1'000'000));
  command->add_option("--context", a->options.context, "Longest context")
      ->check(whole(1, 1'000'000));
  command->add_option("--windows", a->options.windows, "Places whose loss is averaged by context")
      ->check(whole(1, 1'000'000));
  command->add_option("--units", a->options.units, "Of a layer whose gates are written by step")
      ->check(whole(1, 1'000'000));
  command->add_option("--jacobians", a->options.jacobian.count, "Steps whose Jacobian is looked at")
      ->check(whole(1, 1'000'000));
  command->add_option("--seed", a->options.seed);
  command->add_option("--threads", a->threads)->check(whole(1, 1024));
  command->add_option("--out", a->out, "File that is written, and a page of it beside");
  command->callback([a, command] {
    const std::filesystem::path page = std::filesystem::path(a->out).replace_extension(".html");
    if (page == a->out)
      fail("inspect", fmt::format("'{}' is where the page goes", a->out), "Name it .json");
    set_threads(a->threads);
    const auto [model, tokens] = load_model_text(*a);
    const ModelKind kind = model.config.kind;
    const std::string where = fmt::format("for a model of kind {}", to_string(kind));
    only_if(kind != ModelKind::transformer, *command, {"--jacobians"}, where);
    only_if(kind != ModelKind::transformer && kind != ModelKind::rnn, *command, {"--units"}, where);
    // What is asked for stands, or is refused; the usual sizes give way to a model's context.
    const std::int64_t longest = longest_sequence(model.config);
    const auto fitted = [&](const char* option, std::int64_t& size) {
      if (longest > 0 && command->count(option) == 0) size = std::min(size, longest);
    };
    fitted("--steps", a->options.steps);
    fitted("--context", a->options.context);
    if (command->count("--jacobians") > 0 && a->options.jacobian.count > a->options.steps)
      fail("inspect",
           fmt::format("the Jacobians of {} steps out of {}", a->options.jacobian.count,
                       a->options.steps),
           "Give more --steps, or fewer --jacobians");
    const Json inside = inspect(model, tokens, a->options);
    write_file_atomically(a->out, detail::readable(inside) + "\n");
    print(inside);
    fmt::print("inside: {}\n", a->out);
    write_page(page, inside_report(inside));
  });
}

}  // namespace unroll::cli
