// inside.json: what is written, what is refused, and its page.

#include <unroll/compare/compare.h>
#include <unroll/compare/data.h>
#include <unroll/compare/inside.h>
#include <unroll/compare/json_file.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "../catch.h"
#include "../io/files.h"
#include "../train/setup.h"

using namespace unroll;

namespace {

using Json = nlohmann::json;

Json inside_of(ModelKind kind, InspectOptions options = {.steps = 6,
                                                         .batch = 2,
                                                         .context = 2,
                                                         .windows = 2,
                                                         .units = 3,
                                                         .jacobian = {.count = 2, .exact = 100}}) {
  Generator g(1);
  LanguageModel model{test::small(kind), Vocabulary::characters("abcdefgh"), nullptr};
  model.model = make_model(model.config, g);
  return inspect(model, test::periodic(50), options);
}

// Every place of the file, but of long lists their beginning alone.
std::vector<Json::json_pointer> places(const Json& json) {
  std::set<std::string> seen;
  std::vector<Json::json_pointer> all;
  const Json flat = json.flatten();
  for (const auto& [path, leaf] : flat.items()) {
    bool far = false;
    for (Json::json_pointer at(path); !at.empty(); at.pop_back())
      far = far || (std::isdigit(static_cast<unsigned char>(at.back()[0])) && at.back() > "1");
    if (far) continue;
    for (Json::json_pointer at(path); !at.empty(); at.pop_back())
      if (seen.insert(at.to_string()).second) all.push_back(at);
  }
  return all;
}

}  // namespace

TEST_CASE("inspect writes what its check asks for, of every model") {
  for (const ModelKind kind : test::every_kind) {
    CAPTURE(to_string(kind));
    const Json inside = inside_of(kind);
    // As written and as read again.
    CHECK_NOTHROW(check_inside(inside));
    CHECK(Json::parse(detail::readable(inside)) == inside);
    CHECK(inside.at("text").size() == 6);
    const bool attends = kind == ModelKind::transformer, gated = kind != ModelKind::rnn && !attends;
    CHECK(inside.contains("attention") == attends);
    CHECK(inside.contains("jacobian") == !attends);
    REQUIRE(inside.contains("gates") == gated);
    if (!gated) continue;
    for (const Json& layer : inside.at("gates")) {
      REQUIRE(layer.at("units").size() == 3);
      // The quickest and the longest are among them.
      const auto horizon = layer.at("horizon").get<std::vector<double>>();
      std::vector<double> shown;
      for (const Json& unit : layer.at("units")) shown.push_back(horizon[unit.get<std::size_t>()]);
      CHECK(std::ranges::min(shown) == std::ranges::min(horizon));
      CHECK(std::ranges::max(shown) == std::ranges::max(horizon));
      for (const Json& gate : layer.at("gates")) {
        double total = 0;
        for (const Json& share : gate.at("histogram")) total += share.get<double>();
        CHECK(total == Approx(1).epsilon(1e-3));
        for (const Json& row : gate.at("values"))
          for (const Json& value : row) {
            CHECK(value.get<double>() >= gate.at("low").get<double>() - 1e-4);
            CHECK(value.get<double>() <= gate.at("high").get<double>() + 1e-4);
          }
      }
    }
  }
}

TEST_CASE("a model that has come to NaN is looked at, with gaps") {
  for (const ModelKind kind : {ModelKind::gru, ModelKind::transformer}) {
    Generator g(1);
    LanguageModel model{test::small(kind), Vocabulary::characters("abcdefgh"), nullptr};
    model.model = make_model(model.config, g);
    for (Parameter& parameter : model.model->parameters())
      parameter.set_value(Tensor::full(parameter.shape(), std::nan("")));
    const Json inside =
        inspect(model, test::periodic(50),
                {.steps = 6, .batch = 2, .context = 2, .windows = 2, .jacobian = {.count = 1}});
    CHECK(inside.at("effective_context")[0].at("loss").is_null());
    CHECK_NOTHROW(check_inside(inside));
  }
}

TEST_CASE("real inputs are looked at without a text") {
  const TemporaryDirectory folder;
  std::string csv = "a,b\n";
  for (int i = 0; i < 400; ++i)
    csv += std::to_string(std::sin(i / 5.0)) + "," + std::to_string(i % 7) + "\n";
  CompareOptions options;
  options.series = write_plainly(folder / "series.csv", csv);
  Json description;
  const CompareData data = load_data(options, 2, 16, 1, description);
  Generator g(1);
  ModelConfig config = test::small(ModelKind::lstm);
  config.vocabulary = 0;
  config.features = data.base.features;
  config.outputs = data.base.outputs;
  const auto model = make_model(config, g);
  const Json inside = inspect(*model, config, data.inspect(12), {.context = 8, .windows = 4});
  CHECK_NOTHROW(check_inside(inside));
  CHECK(!inside.contains("text"));
  CHECK(inside.at("gradient_flow")[0].at("last").size() == 12);
  CHECK(inside.at("effective_context").size() == 4);
}

TEST_CASE("an inside file that lacks something is a DataError") {
  const Json lstm = inside_of(ModelKind::lstm), transformer = inside_of(ModelKind::transformer);
  const auto refuses = [](const Json& whole, const char* pointer) {
    CAPTURE(pointer);
    const Json::json_pointer at(pointer);
    Json damaged = whole;
    Json& parent = damaged[at.parent_pointer()];
    if (parent.is_object()) {
      parent.erase(at.back());
    } else {
      parent.erase(std::stoul(at.back()));
    }
    CHECK_THROWS_AS(check_inside(damaged), DataError);
    CHECK_THROWS_AS(inside_report(damaged), DataError);
    damaged = whole;
    damaged[at] = "text";
    // Names and symbols may be any text.
    const bool text = whole.at(at).is_string() && at.back() != "format";
    if (!text) CHECK_THROWS_AS(check_inside(damaged), DataError);
  };
  for (const char* pointer : {"/format",
                              "/model",
                              "/model/kind",
                              "/model/layers",
                              "/model/hidden",
                              "/text/0",
                              "/gradient_flow",
                              "/gradient_flow/0/layer",
                              "/gradient_flow/0/mean",
                              "/gradient_flow/1/last/0",
                              "/gates/0/units",
                              "/gates/0/units/0",
                              "/gates/0/gates",
                              "/gates/0/gates/0/name",
                              "/gates/0/gates/0/keeps",
                              "/gates/0/gates/0/low",
                              "/gates/0/gates/0/histogram",
                              "/gates/0/gates/0/values",
                              "/gates/0/gates/0/values/5",
                              "/gates/0/gates/0/values/0/2",
                              "/jacobian/layers",
                              "/jacobian/layers/0/0/step",
                              "/jacobian/layers/0/0/radius",
                              "/jacobian/log_norms",
                              "/jacobian/lyapunov_exponent",
                              "/effective_context",
                              "/effective_context/0/context",
                              "/effective_context/0/loss"}) {
    refuses(lstm, pointer);
  }
  refuses(transformer, "/attention/0/1/5");
  refuses(transformer, "/attention/1/0/3/3");
  const auto wrong = [&](const char* pointer, const Json& value) {
    Json damaged = lstm;
    damaged[Json::json_pointer(pointer)] = value;
    CHECK(has(message_of([&] { check_inside(damaged); }), "docs/inside.md"));
  };
  wrong("/model/kind", 3);
  wrong("/gates/0/units/0", 16);
  wrong("/gates/0/units/0", -1);
  wrong("/gates/1/gates/0/low", 1);
  wrong("/effective_context/0/context", 0);
  wrong("/text", Json::array({"a"}));
}

TEST_CASE("an inside file damaged anywhere is drawn or refused") {
  for (const ModelKind kind : {ModelKind::lstm, ModelKind::transformer}) {
    const Json whole = inside_of(kind);
    for (const Json::json_pointer& at : places(whole)) {
      CAPTURE(at.to_string());
      for (const char* value : {"null", "true", "-1", "1e300", "\"text\"", "[]", "[null]", "{}"}) {
        Json damaged = whole;
        damaged[at] = Json::parse(value);
        const auto survives = [&] {
          try {
            check_inside(damaged);
          } catch (const DataError&) {
          }
        };
        CHECK_NOTHROW(survives());
      }
    }
  }
}

TEST_CASE("the page of a model holds its data and asks for nothing from elsewhere") {
  Json inside = inside_of(ModelKind::transformer);
  inside["text"][0] = "</script><script>alert(1)</script>";
  inside["text"][1] = "/*{{common.js}}*/";
  const std::string page = inside_report(inside);
  CHECK(has(page, "unroll-inside-1"));
  CHECK(!has(page, "<script>alert(1)"));
  CHECK(has(page, "\"/*{{common.js}}*/\""));
  CHECK(!has(page, "{{data}}"));
  for (const char* request :
       {"src=", "@import", "stylesheet", "url(http", "href=\"http", "fetch(", "XMLHttpRequest"})
    CHECK(!has(page, request));
}

TEST_CASE("pages are one template with a title, a body and scripts of their own") {
  const auto page = [](const char* main) {
    return detail::self_contained_page({.title = "A title", .main = main, .scripts = {"report.js"}},
                                       Json("/*{{title}}*/"));
  };
  const std::string report = page("report.html"), inside = page("inside.html");
  CHECK(has(report, "<title>A title</title>"));
  CHECK(has(report, "section(\"#training\""));
  CHECK(has(report, "\"/*{{title}}*/\""));  // the data's own
  const auto head = [](const std::string& text) { return text.substr(0, text.find("<main>")); };
  CHECK(head(report) == head(inside));
  CHECK(report != inside);
  CHECK(has(message_of([&] { page("nowhere.html"); }), "nowhere.html"));
}

TEST_CASE("readable JSON has a line for each thing and one for each plain list") {
  const Json json = Json::parse(R"({"b": [[1, 2], [3.5, null]], "a": {"x": "y\n", "e": 0}})");
  CHECK(detail::readable(json) ==
        "{\n \"a\": {\"e\":0,\"x\":\"y\\n\"},\n \"b\": [\n  [1,2],\n  [3.5,null]]}");
}
