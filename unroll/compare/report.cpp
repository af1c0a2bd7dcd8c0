#include <unroll/compare/compare.h>
#include <unroll/compare/inside.h>
#include <unroll/compare/json_file.h>

namespace unroll {
namespace {

using Json = nlohmann::json;

const detail::JsonCheck check("results",
                              "docs/results.md describes the file; `unroll compare` writes it");

void check_lengths(const Json& lengths) {
  for (const char* key : {"score", "counts", "baseline"}) lengths.at(key).get<std::string>();
  lengths.at("trained").get<std::int64_t>();
  for (const Json& b : check.list(lengths.at("baselines"))) {
    b.at("length").get<std::int64_t>();
    b.at("score").get<double>();
  }
  for (const Json& p : check.list(lengths.at("points"))) {
    p.at("model").get<std::string>();
    p.at("length").get<std::int64_t>();
    for (const char* key : {"score", "exact", "loss"}) detail::check_measured(p.at(key));
  }
}

}  // namespace

void check_results(const Json& results) {
  try {
    if (results.at("format") != "unroll-results-1") check.refuse("not results of this version");
    results.at("task").at("source").get<std::string>();
    results.at("task").at("metric").get<std::string>();
    results.at("task").at("uniform_loss").get<double>();
    if (results.at("task").contains("persistence_loss"))
      detail::check_measured(results.at("task").at("persistence_loss"));
    results.at("machine").at("processor").get<std::string>();
    results.at("settings").at("parameters").get<std::int64_t>();
    if (results.at("models").empty()) check.refuse("no models");
    for (const Json& model : check.list(results.at("models"))) {
      model.at("name").get<std::string>();
      model.at("parameters").get<std::int64_t>();
      detail::check_measured(model.at("tokens_per_second"));
      model.at("peak_training_bytes").get<std::int64_t>();
      detail::check_measured(model.at("best_loss"));
      if (model.contains("inside")) check_inside(model.at("inside"));
      if (model.at("runs").empty()) check.refuse("a model without runs");
      for (const Json& run : check.list(model.at("runs"))) {
        run.at("steps").get<std::int64_t>();
        run.at("seconds").get<double>();
        for (const Json& p : check.list(run.at("curve")))
          for (const char* key : {"step", "tokens", "seconds"}) p.at(key).get<double>();
      }
    }
    const Json& probes = results.at("probes");
    for (const Json& curve : check.list(probes.at("gradient_flow").at("curves"))) {
      for (const char* key : {"model", "when"}) curve.at(key).get<std::string>();
      if (check.list(curve.at("norms")).empty()) check.refuse("an empty curve");
      check.all_measured(curve.at("norms"));
    }
    for (const Json& m : check.list(probes.at("scaling").at("models"))) {
      m.at("model").get<std::string>();
      for (const char* key : {"time_exponent", "memory_exponent"})
        detail::check_measured(m.at(key));
      for (const Json& p : check.list(m.at("points")))
        for (const char* key : {"length", "seconds", "bytes"}) p.at(key).get<double>();
    }
    for (const Json& p : check.list(probes.at("streaming").at("points"))) {
      p.at("model").get<std::string>();
      for (const char* key : {"position", "microseconds", "state_bytes"}) p.at(key).get<double>();
    }
    if (probes.contains("lengths")) check_lengths(probes.at("lengths"));
    if (probes.contains("truncation")) {
      probes.at("truncation").at("k1").get<std::int64_t>();
      for (const Json& p : check.list(probes.at("truncation").at("points"))) {
        p.at("model").get<std::string>();
        p.at("k2").get<std::int64_t>();
        detail::check_measured(p.at("loss"));
      }
    }
    probes.at("adding").at("baseline").get<double>();
    for (const Json& p : check.list(probes.at("adding").at("points"))) {
      p.at("model").get<std::string>();
      p.at("length").get<double>();
      detail::check_measured(p.at("mse"));
    }
  } catch (const Json::exception& error) {
    check.refuse(error.what());
  }
}

std::string report(const Json& results) {
  check_results(results);
  return detail::self_contained_page(
      {.title = "Sequence models compared",
       .main = "report.html",
       .scripts = {"header.js", "training.js", "probes.js", "inside_section.js", "scaling.js",
                   "tasks.js", "report.js"}},
      results);
}

}  // namespace unroll
