#include <unroll/compare/inside.h>
#include <unroll/compare/json_file.h>

#include <limits>

namespace unroll {
namespace {

using Json = nlohmann::json;

const detail::JsonCheck check("inside",
                              "docs/inside.md describes the file; `unroll inspect` writes it");

// `rows` lists of `columns` measurements.
void check_matrix(const Json& json, std::size_t rows, std::size_t columns) {
  if (check.list(json).size() != rows) check.refuse("a matrix has as many rows as there are steps");
  for (const Json& row : json) {
    check.all_measured(row);
    if (row.size() != columns)
      check.refuse("a row of a matrix has another length than its columns");
  }
}

// How many steps the sequence has: every layer's norms are as many.
std::size_t check_flow(const Json& layers) {
  if (check.list(layers).empty()) check.refuse("no gradient flow");
  const std::size_t steps = check.list(layers[0].at("last")).size();
  if (steps == 0) check.refuse("a gradient flow of no steps");
  for (const Json& layer : layers) {
    layer.at("layer").get<std::int64_t>();
    for (const char* loss : {"mean", "last"}) {
      check.all_measured(layer.at(loss));
      if (layer.at(loss).size() != steps) check.refuse("layers have different numbers of steps");
    }
  }
  return steps;
}

void check_gates(const Json& layers, std::size_t steps) {
  for (const Json& layer : check.list(layers)) {
    if (layer.contains("horizon")) check.all_measured(layer.at("horizon"));
    const std::size_t units =
        layer.contains("horizon") ? layer.at("horizon").size() : std::numeric_limits<int>::max();
    for (const Json& unit : check.list(layer.at("units")))
      if (unit.get<std::int64_t>() < 0 || unit.get<std::uint64_t>() >= units)
        check.refuse("a unit that the layer has not: " + unit.dump());
    for (const Json& gate : check.list(layer.at("gates"))) {
      gate.at("name").get<std::string>();
      gate.at("keeps").get<bool>();
      if (!(gate.at("low").get<double>() < gate.at("high").get<double>()))
        check.refuse("a gate's low is not below its high");
      check.all_measured(gate.at("histogram"));
      check_matrix(gate.at("values"), steps, layer.at("units").size());
    }
  }
}

void check_jacobian(const Json& jacobian) {
  for (const Json& layer : check.list(jacobian.at("layers")))
    for (const Json& one : check.list(layer)) {
      one.at("step").get<std::int64_t>();
      for (const char* key : {"radius", "norm"}) detail::check_measured(one.at(key));
    }
  check.all_measured(jacobian.at("log_norms"));
  detail::check_measured(jacobian.at("lyapunov_exponent"));
}

}  // namespace

void check_inside(const Json& inside) {
  try {
    if (inside.at("format") != "unroll-inside-1") check.refuse("not of this version");
    inside.at("model").at("kind").get<std::string>();
    inside.at("model").at("layers").get<std::int64_t>();
    inside.at("model").at("hidden").get<std::int64_t>();
    const std::size_t steps = check_flow(inside.at("gradient_flow"));
    if (inside.contains("text")) {
      for (const Json& symbol : check.list(inside.at("text"))) symbol.get<std::string>();
      if (inside.at("text").size() != steps)
        check.refuse("a text of another length than its steps");
    }
    if (inside.contains("gates")) check_gates(inside.at("gates"), steps);
    if (inside.contains("jacobian")) check_jacobian(inside.at("jacobian"));
    if (inside.contains("attention"))
      for (const Json& layer : check.list(inside.at("attention")))
        for (const Json& head : check.list(layer)) check_matrix(head, steps, steps);
    for (const Json& p : check.list(inside.at("effective_context"))) {
      if (p.at("context").get<std::int64_t>() < 1) check.refuse("a context below 1");
      detail::check_measured(p.at("loss"));
    }
  } catch (const Json::exception& error) {
    check.refuse(error.what());
  }
}

std::string inside_report(const Json& inside) {
  check_inside(inside);
  return detail::self_contained_page(
      {.title = "Inside a sequence model", .main = "inside.html", .scripts = {"inside_page.js"}},
      inside);
}

}  // namespace unroll
