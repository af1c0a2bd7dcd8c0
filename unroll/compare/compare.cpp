#include <fmt/format.h>
#include <unroll/compare/budget.h>
#include <unroll/compare/compare.h>
#include <unroll/compare/data.h>
#include <unroll/compare/machine.h>
#include <unroll/compare/probes.h>
#include <unroll/graph/clock.h>
#include <unroll/graph/threads.h>
#include <unroll/optim/adam.h>
#include <unroll/train/interrupt.h>
#include <unroll/train/progress.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

constexpr int layers_of_blocks = 3;

ModelConfig config_of(const std::string& name, const ModelConfig& base, std::int64_t parameters,
                      bool task) {
  ModelConfig config = base;
  config.kind = model_kind(name);
  config.embedding = task ? 32 : 64;
  config.layers = has_blocks(config.kind) && !task ? layers_of_blocks : 2;
  config.heads = task ? 2 : 4;
  config.positions = Positions::rotary;
  return sized(config, parameters);
}

// Weighs the parts of the whole for one bar and one time left. The weights are rough seconds.
class Whole {
 public:
  explicit Whole(double total) : bar_("compare"), total_(total) {}
  void part(const std::string& note, double weight) {
    done_ += weight_;
    weight_ = weight;
    note_ = note;
    update(0);
  }
  void update(double share) {
    bar_.update(std::min(0.999, (done_ + weight_ * std::min(1.0, share)) / total_), note_);
    if (InterruptGuard::requested()) fail("compare", "interrupted");
  }

 private:
  Progress bar_;
  double total_, done_ = 0, weight_ = 0;
  std::string note_;
};

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json curve_json(const std::vector<TrainPoint>& curve) {
  Json points = Json::array();
  for (const TrainPoint& p : curve)
    points.push_back({{"step", p.step},
                      {"tokens", p.tokens},
                      {"seconds", p.seconds},
                      {"train_loss", number(p.train_loss)},
                      {"validation_loss", number(p.validation_loss)}});
  return points;
}

Json flow_json(const std::string& model, const char* when, const GradientFlow& flow) {
  Json norms = Json::array();
  for (double norm : flow.norms) norms.push_back(number(norm));
  return {{"model", model}, {"when", when}, {"norms", norms}};
}

// What is trained: a model, and how far back in a stream.
struct Entry {
  std::string name;
  ModelConfig config;
  std::int64_t k2 = 0;
};

class Comparison {
 public:
  explicit Comparison(const CompareOptions& options)
      : options_(options), budget_((check(options), budget_of(options))) {
    const bool task = !options.task.empty();
    if (options_.parameters == 0) options_.parameters = task ? 20'000 : 200'000;
    data_ = load_data(options, budget_.batch, budget_.context, budget_.evaluation_batches,
                      description_);
    plain_ = data_.exact == nullptr && options.k2.empty();
    for (const std::string& name : options.models) {
      const ModelConfig config = config_of(name, data_.base, options_.parameters, task);
      if (!options.k2.empty() && !make_model(config)->constant_state())
        fail("compare",
             fmt::format("the state of a {} grows with the stream: k2 cannot cut it", name),
             "Name recurrent models, as --models rnn,lstm,gru");
      if (options.k2.empty()) entries_.push_back({name, config});
      for (std::int64_t k2 : options.k2)
        entries_.push_back({fmt::format("{} k2 {}", name, k2), config, k2});
    }
  }

  Json operator()() {
    const InterruptGuard interrupt;
    set_threads(options_.threads);
    const double models = static_cast<double>(entries_.size());
    const double train_weight = options_.seconds > 0 ? options_.seconds : 15;
    Whole whole(models * (train_weight * options_.seeds + (plain_ ? 5 + 1 + 1 + 12 : 0)));
    Json result{{"format", "unroll-results-1"},
                {"machine", machine_description(options_.threads)},
                {"task", description_},
                {"settings", settings()},
                {"models", Json::array()}};
    Json flows = Json::array(), streaming = Json::array(), scores = Json::array(),
         truncation = Json::array();
    for (const Entry& entry : entries_) {
      Json runs = Json::array();
      std::unique_ptr<SequenceModel> model;
      for (int seed = 1; seed <= options_.seeds; ++seed) {
        whole.part("training " + entry.name, train_weight);
        runs.push_back(run(entry, seed, whole, flows, model));
        if (data_.exact != nullptr) add_scores(entry.name, seed, *model, scores);
      }
      result["models"].push_back(model_json(entry, *model, runs));
      if (entry.k2 > 0)
        truncation.push_back({{"model", to_string(entry.config.kind)},
                              {"k2", entry.k2},
                              {"loss", result["models"].back().at("best_loss")}});
      if (!plain_) continue;
      whole.part("looking inside " + entry.name, 1);
      result["models"].back()["inside"] =
          inspect(*model, entry.config, data_.inspect(budget_.inspect.steps), budget_.inspect);
      whole.part("streaming " + entry.name, 1);
      Generator generator(11);
      for (const StreamingPoint& p :
           measure_streaming(*model, entry.config, budget_.stream_positions, generator))
        streaming.push_back({{"model", entry.name},
                             {"position", p.position},
                             {"microseconds", p.microseconds},
                             {"state_bytes", p.state_bytes}});
    }
    Json scaling = Json::array(), adding = Json::array();
    if (plain_) {
      for (const Entry& entry : entries_) {
        whole.part("scaling " + entry.name, 5);
        scaling.push_back(scaling_json(entry.name, entry.config));
      }
      for (const Entry& entry : entries_) {
        whole.part("adding problem " + entry.name, 12);
        adding_points(entry.name, entry.config, whole, adding);
      }
      Generator generator(13);
      flows.push_back(flow_json("linear", "theory 0.8^k",
                                linear_gradient_flow(0.8, budget_.flow_steps, 64, generator)));
    }
    const double adding_baseline = long_range_task("adding").baseline(0).score;
    result["probes"] = {{"gradient_flow", {{"steps", budget_.flow_steps}, {"curves", flows}}},
                        {"scaling", {{"batch", scaling_batch}, {"models", scaling}}},
                        {"streaming", {{"points", streaming}}},
                        {"adding", {{"baseline", adding_baseline}, {"points", adding}}}};
    if (data_.exact != nullptr) result["probes"]["lengths"] = lengths_json(scores);
    if (!options_.k2.empty())
      result["probes"]["truncation"] = {{"k1", shortest_reach(options_)}, {"points", truncation}};
    return result;
  }

 private:
  static constexpr std::int64_t scaling_batch = 4;
  static constexpr double learning_rate = 3e-3;

  static void check(const CompareOptions& o) {
    if (o.models.empty()) fail("compare", "no models");
    for (auto name = o.models.begin(); name != o.models.end(); ++name)
      if (std::find(o.models.begin(), name, *name) != name)
        fail("compare", fmt::format("model '{}' is named twice", *name));
    if (o.seeds < 1) fail("compare", fmt::format("{} seeds", o.seeds));
    if (o.steps < 0) fail("compare", fmt::format("{} steps", o.steps));
    if (o.length != 0 && o.task.empty()) fail("compare", "a length is that of a task");
    if (o.k2.empty()) return;
    if (!o.task.empty() || !o.series.empty())
      fail("compare", "k2 is measured on a text, which is read as a stream");
    for (auto one = o.k2.begin(); one != o.k2.end(); ++one)
      if (*one < 1 || std::find(o.k2.begin(), one, *one) != one)
        fail("compare", fmt::format("k2 {}", *one), "Name each number of steps once, 1 or more");
  }

  Json settings() const {
    return {{"parameters", options_.parameters},
            {"batch", budget_.batch},
            {"context", context()},
            {"steps", budget_.steps},
            {"seconds", options_.seconds},
            {"seeds", options_.seeds},
            {"threads", options_.threads},
            {"quick", options_.quick},
            {"learning_rate", learning_rate}};
  }

  // Steps of a training batch, at the most.
  std::int64_t context() const {
    if (!options_.k2.empty()) return shortest_reach(options_);
    if (data_.exact == nullptr) return budget_.context;
    Generator generator;
    return draw_task(*data_.exact, data_.length, 1, generator).x.size(0);
  }

  GradientFlow flow(SequenceModel& model) const {
    Generator generator(17);
    return gradient_flow(model, data_.held_out(flow_steps(), 4, generator), data_.last_loss);
  }
  // Short held-out parts bound how far back there is anything to look at.
  std::int64_t flow_steps() const {
    return std::min<std::int64_t>(budget_.flow_steps,
                                  description_.at("validation_tokens").get<std::int64_t>() - 1);
  }

  Json run(const Entry& entry, int seed, Whole& whole, Json& flows,
           std::unique_ptr<SequenceModel>& model) const {
    Generator initial(static_cast<std::uint64_t>(seed));
    model = make_model(entry.config, initial);
    if (plain_ && seed == 1) flows.push_back(flow_json(entry.name, "initial", flow(*model)));
    // A task draws new sequences without end: there is nothing to keep a model from.
    AdamW optimizer(decay_groups(model->named_parameters()),
                    {.learning_rate = learning_rate,
                     .betas = {0.9, 0.99},
                     .weight_decay = data_.exact != nullptr ? 0.0 : 0.1});
    // The same batches for every model: their generator depends on the seed alone.
    Generator batches(static_cast<std::uint64_t>(1000 + seed));
    TrainTask task = entry.k2 > 0 ? data_.stream(shortest_reach(options_)) : data_.task;
    task.k2 = entry.k2;
    std::int64_t drawn = 0;
    const auto start = Clock::now();
    double evaluating = 0;  // which options.seconds does not count
    task.next = [&, next = task.next](Generator& g) {
      whole.update(options_.seconds > 0
                       ? (seconds_since(start) - evaluating) / options_.seconds
                       : static_cast<double>(drawn) / static_cast<double>(budget_.steps));
      ++drawn;
      return next(g);
    };
    task.evaluate = [&](SequenceModel& m) {
      const auto from = Clock::now();
      const double loss = data_.task.evaluate(m);
      evaluating += seconds_since(from);
      return loss;
    };
    const std::int64_t steps = options_.seconds > 0 ? std::int64_t{1} << 40 : budget_.steps;
    Schedule rate = schedule::cosine({.rate = learning_rate,
                                      .steps = budget_.steps,
                                      .warmup_steps = std::max<std::int64_t>(1, budget_.steps / 20),
                                      .final_rate = learning_rate / 10});
    if (options_.seconds > 0)
      rate = schedule::linear_warmup(20, schedule::constant(learning_rate / 2));
    const TrainResult trained =
        train(*model, optimizer, task, batches,
              {.steps = steps,
               .seconds = options_.seconds,
               .schedule = rate,
               .clip_norm = 1.0,
               .evaluate_every = std::max<std::int64_t>(1, budget_.steps / budget_.evaluations),
               .label = ""});
    if (trained.interrupted) fail("compare", "interrupted");
    if (plain_ && seed == 1) flows.push_back(flow_json(entry.name, "trained", flow(*model)));
    return {{"seed", seed},
            {"steps", trained.steps},
            {"tokens", trained.tokens},
            {"seconds", trained.seconds},
            {"best_loss", number(trained.best_loss)},
            {"final_loss", number(trained.curve.back().validation_loss)},
            {"peak_bytes", trained.peak_bytes},
            {"curve", curve_json(trained.curve)}};
  }

  // At the trained length and beyond, on the same sequences for all models.
  void add_scores(const std::string& name, int seed, SequenceModel& model, Json& points) const {
    for (const std::int64_t length : score_lengths()) {
      Generator generator(29);
      const TaskScore score = score_task(model, *data_.exact, length, 8, 64, generator);
      points.push_back({{"model", name},
                        {"seed", seed},
                        {"length", length},
                        {"score", number(score.score)},
                        {"exact", score.exact},
                        {"loss", number(score.loss)}});
    }
  }

  std::vector<std::int64_t> score_lengths() const {
    std::vector<std::int64_t> lengths;
    for (const std::int64_t times : {1, 2, 4})
      if (data_.length * times <= data_.exact->longest) lengths.push_back(data_.length * times);
    return lengths;
  }

  Json lengths_json(const Json& points) const {
    Json baselines = Json::array();
    for (const std::int64_t length : score_lengths())
      baselines.push_back({{"length", length}, {"score", data_.exact->baseline(length).score}});
    return {{"score", data_.exact->real() ? "mean squared error" : "accuracy"},
            {"counts", data_.exact->length_counts},
            {"trained", data_.length},
            {"baseline", data_.exact->knows_not},
            {"baselines", baselines},
            {"points", points}};
  }

  static Json model_json(const Entry& entry, const SequenceModel& model, const Json& runs) {
    double best = 0, rate = 0;
    std::int64_t peak = 0;
    for (const Json& one : runs) {
      best += one.at("best_loss").is_null() ? std::nan("") : one.at("best_loss").get<double>();
      rate += one.at("tokens").get<double>() / one.at("seconds").get<double>();
      peak = std::max(peak, one.at("peak_bytes").get<std::int64_t>());
    }
    const auto n = static_cast<double>(runs.size());
    return {{"name", entry.name},
            {"parameters", model.parameter_count()},
            {"hidden", entry.config.hidden},
            {"layers", entry.config.layers},
            {"best_loss", number(best / n)},
            {"tokens_per_second", number(rate / n)},
            {"peak_training_bytes", peak},
            {"runs", runs}};
  }

  Json scaling_json(const std::string& name, const ModelConfig& config) const {
    Generator generator(19);
    const Scaling scaling = measure_scaling(config, budget_.scaling_lengths, scaling_batch,
                                            budget_.scaling_seconds, generator);
    Json points = Json::array();
    for (const ScalingPoint& p : scaling.points)
      points.push_back({{"length", p.length}, {"seconds", p.seconds}, {"bytes", p.bytes}});
    return {{"model", name},
            {"points", points},
            {"time_exponent", number(scaling.time_exponent)},
            {"memory_exponent", number(scaling.memory_exponent)}};
  }

  void adding_points(const std::string& name, const ModelConfig& config, Whole& whole,
                     Json& points) const {
    ModelConfig small = config;
    small.vocabulary = 0;
    small.features = 2;
    small.outputs = 1;
    small.embedding = 16;
    small.layers = has_blocks(config.kind) ? 2 : 1;
    small.heads = 2;
    small = sized(small, budget_.adding_parameters);
    double done = 0;
    for (std::int64_t length : budget_.adding_lengths) {
      Generator generator(23);
      const double weight = 1.0 / static_cast<double>(budget_.adding_lengths.size());
      const AddingResult result =
          train_adding(small, length, budget_.adding_steps, 32, 5e-3, generator,
                       [&](double share) { whole.update(done + share * weight); });
      done += weight;
      Json curve = Json::array();
      for (const auto& [step, mse] : result.curve)
        curve.push_back({{"step", step}, {"mse", number(mse)}});
      points.push_back({{"model", name},
                        {"length", length},
                        {"steps", result.steps},
                        {"mse", number(result.mse)},
                        {"curve", curve}});
    }
  }

  CompareOptions options_;
  Budget budget_;
  Json description_;
  CompareData data_;
  bool plain_ = true;  // on data, with all probes
  std::vector<Entry> entries_;
};

}  // namespace

Json compare(const CompareOptions& options) { return Comparison(options)(); }

}  // namespace unroll
