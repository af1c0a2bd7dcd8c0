// The comparison's probes, its results file and its report.

#include <unroll/compare/compare.h>
#include <unroll/compare/data.h>
#include <unroll/compare/inside.h>
#include <unroll/compare/probes.h>
#include <unroll/compare/tasks.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/reduce.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "../catch.h"
#include "../io/files.h"
#include "../train/setup.h"

using namespace unroll;

namespace {

using Json = nlohmann::json;

// The smallest results that docs/results.md allows, with names that want to break a page.
Json results() {
  return Json::parse(R"json({
    "format": "unroll-results-1",
    "machine": {"processor": "Test processor", "threads": 2},
    "task": {"kind": "text", "source": "</script><script>alert(1)</script>",
             "metric": "nats per character", "uniform_loss": 4.1},
    "settings": {"parameters": 200000, "steps": 10, "seeds": 1, "quick": true},
    "models": [{"name": "lstm", "parameters": 198765, "tokens_per_second": 54321.5,
                "peak_training_bytes": 1234567, "best_loss": 1.75,
                "config": {"hidden": 99},
                "runs": [{"seed": 1, "steps": 10, "seconds": 1.5, "best_loss": 1.75,
                          "curve": [{"step": 10, "tokens": 640, "seconds": 1.5,
                                     "train_loss": 2.5, "validation_loss": 1.75}]}]}],
    "probes": {
      "gradient_flow": {"steps": 3, "curves": [
        {"model": "lstm", "when": "start", "norms": [1.0, 0.5, 0.25]}]},
      "scaling": {"models": [{"model": "lstm", "time_exponent": 1.0, "memory_exponent": 1.0,
                              "points": [{"length": 32, "seconds": 0.01, "bytes": 1000}]}]},
      "streaming": {"points": [{"model": "lstm", "position": 1, "microseconds": 20.0,
                                "state_bytes": 800}]},
      "adding": {"baseline": 0.16666666666666666,
                 "points": [{"model": "lstm", "length": 10, "mse": 0.01}]},
      "lengths": {"score": "accuracy", "counts": "bits", "trained": 10, "baseline": "guessing",
                  "baselines": [{"length": 10, "score": 0.5}],
                  "points": [{"model": "lstm", "seed": 1, "length": 10, "score": 0.75,
                              "exact": 0.25, "loss": 0.3},
                             {"model": "lstm", "seed": 2, "length": 10, "score": 0.85,
                              "exact": 0.35, "loss": 0.2}]},
      "truncation": {"k1": 4, "points": [{"model": "lstm", "k2": 16, "loss": 1.75}]}}
  })json");
}

// What may be null.
bool measured(std::string_view pointer) {
  return pointer.ends_with("/best_loss") || pointer.ends_with("_exponent");
}

}  // namespace

TEST_CASE("gradient flow of a linear recurrence follows the power of its radius") {
  for (const double radius : {0.8, 1.0, 1.1}) {
    Generator g(1);
    const GradientFlow flow = linear_gradient_flow(radius, 101, 16, g);
    REQUIRE(flow.norms.size() >= 100);
    for (std::size_t k = 0; k < flow.norms.size(); ++k) {
      CAPTURE(radius, k);
      const double expected = flow.norms[0] * std::pow(radius, static_cast<double>(k));
      CHECK(flow.norms[k] == Approx(expected).epsilon(1e-4));
    }
  }
}

TEST_CASE("gradient flow of a model has a finite, positive norm for each step back") {
  Generator g(2);
  Tensor x = Tensor::empty({12, 2}, DType::i64);
  for (std::int64_t& token : x.mutable_data<std::int64_t>()) token = g.below(7);
  for (const ModelKind kind : test::every_kind) {
    CAPTURE(to_string(kind));
    const auto model = make_model({.kind = kind, .vocabulary = 7, .embedding = 8, .hidden = 8}, g);
    const GradientFlow flow =
        gradient_flow(*model, x, [](const Tensor& last) { return mean(square(last)); });
    CHECK(flow.norms.size() == (kind == ModelKind::transformer ? 12u : 11u));
    for (double norm : flow.norms) CHECK((std::isfinite(norm) && norm > 0));
    for (const Parameter& p : model->parameters()) CHECK(!p.grad().defined());
  }
}

TEST_CASE("adding batches: two marks, one in each half, and their numbers' sum") {
  Generator g(3);
  double sum = 0, error = 0;
  std::int64_t count = 0;
  for (const std::int64_t length : {2, 11, 50}) {
    const auto [x, y] = draw_task(long_range_task("adding"), length, 400, g);
    REQUIRE(x.shape() == Shape{length, 400, 2});
    REQUIRE(y.shape() == Shape{400, 1});
    for (std::int64_t b = 0; b < 400; ++b) {
      double marked = 0;
      int first = 0, second = 0;
      for (std::int64_t t = 0; t < length; ++t) {
        const float* at = x.data<float>().data() + (t * 400 + b) * 2;
        REQUIRE((at[0] >= 0 && at[0] < 1));
        REQUIRE((at[1] == 0 || at[1] == 1));
        if (at[1] == 1) ++(t < length / 2 ? first : second);
        marked += at[0] * at[1];
      }
      REQUIRE(first == 1);
      REQUIRE(second == 1);
      const double target = y.data<float>()[static_cast<std::size_t>(b)];
      REQUIRE(target == Approx(marked).margin(1e-6));
      sum += target;
      error += (target - 1) * (target - 1);
      ++count;
    }
  }
  const double baseline = long_range_task("adding").baseline(50).score;
  CHECK(sum / static_cast<double>(count) == Approx(1).margin(0.04));
  CHECK(error / static_cast<double>(count) == Approx(baseline).margin(0.02));
  CHECK_THROWS_AS(draw_task(long_range_task("adding"), 1, 4, g), Error);
}

TEST_CASE("a small GRU learns to add") {
  Generator g(4);
  const AddingResult result = train_adding({.kind = ModelKind::gru,
                                            .features = 2,
                                            .outputs = 1,
                                            .embedding = 8,
                                            .hidden = 24,
                                            .layers = 1},
                                           6, 300, 32, 1e-2, g);
  CHECK(result.length == 6);
  CHECK(result.steps == 300);
  CHECK(result.mse < 1.0 / 24);
  CHECK(!result.curve.empty());
}

TEST_CASE("the fitted exponent is the slope in the logarithms") {
  const double x[] = {1, 2, 4, 8}, y[] = {3, 12, 48, 192}, flat[] = {5, 5, 5, 5};
  CHECK(fitted_exponent(x, y) == Approx(2));
  CHECK(fitted_exponent(x, flat) == Approx(0).margin(1e-12));
  CHECK(fitted_exponent(std::span(x).first(2), std::span(y).first(2)) == Approx(2));
}

TEST_CASE("sized models come close to what was asked") {
  for (const ModelKind kind : test::every_kind) {
    CAPTURE(to_string(kind));
    const ModelConfig config =
        sized({.kind = kind, .vocabulary = 80, .embedding = 64, .layers = has_blocks(kind) ? 3 : 2},
              200'000);
    Generator g(1);
    // RWKV's size is a multiple of its four heads.
    CHECK(static_cast<double>(make_model(config, g)->parameter_count()) ==
          Approx(200'000).epsilon(kind == ModelKind::rwkv ? 0.06 : 0.02));
  }
  CHECK_THROWS_AS(sized({.vocabulary = 80}, 10), Error);
}

TEST_CASE("a series of small changes on a large number keeps them") {
  const TemporaryDirectory folder;
  const auto csv = [&](double level) {
    std::string text = "a\n";
    for (int i = 0; i < 1000; ++i) text += std::to_string(level + std::sin(i / 5.0)) + "\n";
    return write_plainly(folder / (std::to_string(level) + ".csv"), text);
  };
  const auto first = [](const std::filesystem::path& path) {
    Json description;
    Generator g(1);
    CompareOptions options;
    options.series = path;
    return load_data(options, 2, 16, 1, description).held_out(50, 1, g);
  };
  const Tensor plain = first(csv(0)), shifted = first(csv(1e8));
  for (std::size_t i = 0; i < 50; ++i)
    CHECK(shifted.data<float>()[i] == Approx(plain.data<float>()[i]).margin(1e-4));
}

TEST_CASE("streaming: the state of a recurrent model stays, a Transformer's grows") {
  Generator g(5);
  const std::int64_t positions[] = {1, 4, 16};
  for (const ModelKind kind : {ModelKind::lstm, ModelKind::transformer}) {
    ModelConfig config{.kind = kind, .vocabulary = 9, .embedding = 8, .hidden = 8, .layers = 2};
    const auto model = make_model(config, g);
    const std::vector<StreamingPoint> points = measure_streaming(*model, config, positions, g);
    REQUIRE(points.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(points[i].position == positions[i]);
      CHECK(points[i].microseconds > 0);
      const std::int64_t layer = kind == ModelKind::lstm ? 2 * 8 * 4 : 2 * 8 * 4 * positions[i];
      CHECK(points[i].state_bytes == 2 * layer);
    }
  }
}

TEST_CASE("measurements that were not finite are gaps, in the file, the tables and the report") {
  Json gaps = results();
  for (const char* at :
       {"/models/0/best_loss", "/models/0/tokens_per_second", "/models/0/runs/0/best_loss",
        "/models/0/runs/0/curve/0/validation_loss", "/probes/gradient_flow/curves/0/norms/1",
        "/probes/scaling/models/0/time_exponent", "/probes/scaling/models/0/memory_exponent",
        "/probes/adding/points/0/mse", "/probes/lengths/points/0/score",
        "/probes/truncation/points/0/loss"})
    gaps[Json::json_pointer(at)] = std::nan("");
  // As written and as read again.
  for (const Json& one : {gaps, Json::parse(gaps.dump())}) {
    CHECK_NOTHROW(check_results(one));
    CHECK(has(report(one), "[1.0,null,0.25]"));
    CHECK(has(tables(one), "T 10: -"));
    CHECK(!has(tables(one), "nan"));
  }
  gaps["probes"]["gradient_flow"]["curves"][0]["norms"] = Json::array({nullptr, nullptr});
  CHECK(!has(tables(gaps), "nan"));
  gaps["probes"]["gradient_flow"]["curves"][0]["norms"][1] = "1";
  CHECK_THROWS_AS(tables(gaps), DataError);
}

TEST_CASE("results that lack something are a DataError") {
  CHECK_NOTHROW(check_results(results()));
  for (const char* pointer : {"/format",
                              "/task",
                              "/task/source",
                              "/task/metric",
                              "/task/uniform_loss",
                              "/machine/processor",
                              "/settings/parameters",
                              "/models",
                              "/models/0/name",
                              "/models/0/parameters",
                              "/models/0/runs",
                              "/models/0/runs/0/curve",
                              "/models/0/runs/0/curve/0/step",
                              "/models/0/best_loss",
                              "/probes",
                              "/probes/gradient_flow/curves/0/norms",
                              "/probes/scaling/models/0/time_exponent",
                              "/probes/scaling/models/0/points/0/bytes",
                              "/probes/streaming/points/0/state_bytes",
                              "/probes/adding/baseline",
                              "/probes/lengths/trained",
                              "/probes/lengths/baselines/0/score",
                              "/probes/lengths/points/0/length",
                              "/probes/truncation/k1",
                              "/probes/truncation/points/0/k2"}) {
    CAPTURE(pointer);
    const Json::json_pointer at(pointer);
    const auto rejects = [](const Json& damaged) {
      CHECK_THROWS_AS(check_results(damaged), DataError);
      CHECK_THROWS_AS(report(damaged), DataError);
    };
    Json damaged = results();
    damaged[at.parent_pointer()].erase(at.back());
    rejects(damaged);
    damaged = results();
    damaged[at] = nullptr;
    if (measured(pointer)) {
      CHECK_NOTHROW(check_results(damaged));
    } else {
      rejects(damaged);
    }
    damaged[at] = Json::array({Json::array()});
    rejects(damaged);
  }
  for (const char* text :
       {"null", "[]", "3", "{}", "\"text\"", "{\"format\":\"unroll-results-2\"}"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(check_results(Json::parse(text)), DataError);
    CHECK_THROWS_AS(tables(Json::parse(text)), DataError);
  }
}

TEST_CASE("the tables of a series show what repeating the last value costs") {
  Json series = results();
  CHECK(!has(tables(series), "repeating"));
  series["task"]["persistence_loss"] = 0.125;
  CHECK(has(tables(series), "repeating the last value: 0.1250"));
  series["task"]["persistence_loss"] = nullptr;
  CHECK(has(tables(series), "repeating the last value: -"));
  series["task"]["persistence_loss"] = "little";
  CHECK_THROWS_AS(tables(series), DataError);
}

TEST_CASE("scores by length are the mean of the seeds, beside their baseline") {
  CHECK(has(tables(results()), "0.8000 | 30.0 %"));
  CHECK(has(tables(results()), "0.5000"));
  CHECK(has(tables(results()), "k2 16: 1.7500"));
  Json without = results();
  without["probes"].erase("lengths");
  without["probes"].erase("truncation");
  CHECK(!has(tables(without), "by length (bits)"));
  CHECK(!has(tables(without), "k2"));
}

TEST_CASE("results hold insides that are whole, or none") {
  Generator g(1);
  LanguageModel model{test::small(ModelKind::gru), Vocabulary::characters("abcdefgh"), nullptr};
  model.model = make_model(model.config, g);
  Json with = results();
  with["models"][0]["inside"] = inspect(model, test::periodic(50), {.steps = 6, .context = 2});
  CHECK_NOTHROW(check_results(with));
  CHECK(has(report(with), "unroll-inside-1"));
  with["models"][0]["inside"].erase("effective_context");
  CHECK_THROWS_AS(check_results(with), DataError);
  CHECK_THROWS_AS(report(with), DataError);
}

TEST_CASE("results damaged anywhere are drawn or refused") {
  const Json whole = results().flatten();
  std::vector<Json::json_pointer> places;
  for (const auto& [path, leaf] : whole.items())
    for (Json::json_pointer at(path); !at.empty(); at.pop_back())
      if (std::find(places.begin(), places.end(), at) == places.end()) places.push_back(at);
  const auto survives = [](const Json& damaged) {
    for (const auto& draw : {tables, report}) try {
        draw(damaged);
      } catch (const DataError&) {
      }
  };
  for (const Json::json_pointer& at : places) {
    CAPTURE(at.to_string());
    for (const char* value : {"null", "true", "-1", "1e300", "\"text\"", "[]", "[null]", "{}"}) {
      Json damaged = results();
      damaged[at] = Json::parse(value);
      CHECK_NOTHROW(survives(damaged));
    }
    Json damaged = results();
    Json& parent = damaged[at.parent_pointer()];
    if (parent.is_object()) {
      parent.erase(at.back());
    } else {
      parent.erase(std::stoul(at.back()));
    }
    CHECK_NOTHROW(survives(damaged));
  }
}

TEST_CASE("the report holds the data and asks for nothing from elsewhere") {
  const std::string page = report(results());
  CHECK(has(page, "Test processor"));
  CHECK(has(page, "54321.5"));
  CHECK(has(page, "unroll-results-1"));
  CHECK(!has(page, "<script>alert(1)"));
  CHECK(!has(page, "{{"));
  for (const char* request :
       {"src=", "@import", "stylesheet", "url(http", "href=\"http", "fetch(", "XMLHttpRequest"})
    CHECK(!has(page, request));
  CHECK(has(tables(results()), "lstm"));
}
