#include <unroll/compare/assets.h>
#include <unroll/compare/compare.h>
#include <unroll/graph/error.h>

#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

void replace_all(std::string& text, std::string_view what, std::string_view by) {
  for (std::size_t at = text.find(what); at != std::string::npos;
       at = text.find(what, at + by.size()))
    text.replace(at, what.size(), by);
}

[[noreturn]] void malformed(const std::string& what) {
  throw DataError(error_message("results", what, nullptr,
                                "docs/results.md describes the file; `unroll compare` writes it"));
}

// Loops over an object's members, a null's nothing and a number itself are all possible: not here.
const Json& list(const Json& json) {
  if (!json.is_array()) malformed("a list is no list: " + json.dump().substr(0, 40));
  return json;
}

// A measurement that was not finite is null: a gap, not an error.
void check_measured(const Json& json) {
  if (!json.is_null()) json.get<double>();
}

void check_lengths(const Json& lengths) {
  for (const char* key : {"score", "counts", "baseline"}) lengths.at(key).get<std::string>();
  lengths.at("trained").get<std::int64_t>();
  for (const Json& b : list(lengths.at("baselines"))) {
    b.at("length").get<std::int64_t>();
    b.at("score").get<double>();
  }
  for (const Json& p : list(lengths.at("points"))) {
    p.at("model").get<std::string>();
    p.at("length").get<std::int64_t>();
    for (const char* key : {"score", "exact", "loss"}) check_measured(p.at(key));
  }
}

// JSON inside a <script>: a "</script>" in a file's name must not end it.
std::string embeddable(const Json& json) {
  std::string text = json.dump();
  replace_all(text, "<", "\\u003c");
  return text;
}

}  // namespace

void check_results(const Json& results) {
  try {
    if (results.at("format") != "unroll-results-1") malformed("not results of this version");
    results.at("task").at("source").get<std::string>();
    results.at("task").at("metric").get<std::string>();
    results.at("task").at("uniform_loss").get<double>();
    if (results.at("task").contains("persistence_loss"))
      check_measured(results.at("task").at("persistence_loss"));
    results.at("machine").at("processor").get<std::string>();
    results.at("settings").at("parameters").get<std::int64_t>();
    if (results.at("models").empty()) malformed("no models");
    for (const Json& model : list(results.at("models"))) {
      model.at("name").get<std::string>();
      model.at("parameters").get<std::int64_t>();
      check_measured(model.at("tokens_per_second"));
      model.at("peak_training_bytes").get<std::int64_t>();
      check_measured(model.at("best_loss"));
      if (model.at("runs").empty()) malformed("a model without runs");
      for (const Json& run : list(model.at("runs"))) {
        run.at("steps").get<std::int64_t>();
        run.at("seconds").get<double>();
        for (const Json& p : list(run.at("curve")))
          for (const char* key : {"step", "tokens", "seconds"}) p.at(key).get<double>();
      }
    }
    const Json& probes = results.at("probes");
    for (const Json& curve : list(probes.at("gradient_flow").at("curves"))) {
      for (const char* key : {"model", "when"}) curve.at(key).get<std::string>();
      if (list(curve.at("norms")).empty()) malformed("an empty curve");
      for (const Json& norm : curve.at("norms")) check_measured(norm);
    }
    for (const Json& m : list(probes.at("scaling").at("models"))) {
      m.at("model").get<std::string>();
      for (const char* key : {"time_exponent", "memory_exponent"}) check_measured(m.at(key));
      for (const Json& p : list(m.at("points")))
        for (const char* key : {"length", "seconds", "bytes"}) p.at(key).get<double>();
    }
    for (const Json& p : list(probes.at("streaming").at("points"))) {
      p.at("model").get<std::string>();
      for (const char* key : {"position", "microseconds", "state_bytes"}) p.at(key).get<double>();
    }
    if (probes.contains("lengths")) check_lengths(probes.at("lengths"));
    if (probes.contains("truncation")) {
      probes.at("truncation").at("k1").get<std::int64_t>();
      for (const Json& p : list(probes.at("truncation").at("points"))) {
        p.at("model").get<std::string>();
        p.at("k2").get<std::int64_t>();
        check_measured(p.at("loss"));
      }
    }
    probes.at("adding").at("baseline").get<double>();
    for (const Json& p : list(probes.at("adding").at("points"))) {
      p.at("model").get<std::string>();
      p.at("length").get<double>();
      check_measured(p.at("mse"));
    }
  } catch (const Json::exception& error) {
    malformed(error.what());
  }
}

std::string report(const Json& results) {
  check_results(results);
  std::string page(asset("report.html"));
  // The data last: what it holds is no placeholder.
  replace_all(page, "/*{{report.css}}*/", asset("report.css"));
  replace_all(page, "/*{{chart.js}}*/", asset("chart.js"));
  replace_all(page, "/*{{report.js}}*/", asset("report.js"));
  replace_all(page, "/*{{report_tasks.js}}*/", asset("report_tasks.js"));
  replace_all(page, "\"{{results}}\"", embeddable(results));
  return page;
}

}  // namespace unroll
