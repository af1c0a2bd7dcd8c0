#include <fmt/format.h>
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

// What a full and a quick comparison spend.
struct Budget {
  std::int64_t batch, context, steps, evaluations;
  int evaluation_batches;
  std::int64_t flow_steps;
  std::vector<std::int64_t> scaling_lengths, adding_lengths, stream_positions;
  double scaling_seconds;
  std::int64_t adding_steps, adding_parameters;
};

Budget budget_of(const CompareOptions& o) {
  if (o.quick)
    return {.batch = 8,
            .context = 48,
            .steps = o.steps != 0 ? o.steps : 60,
            .evaluations = 6,
            .evaluation_batches = 4,
            .flow_steps = 101,
            .scaling_lengths = {32, 64, 128, 256},
            .adding_lengths = {10, 30},
            .stream_positions = {1, 64, 256, 1024},
            .scaling_seconds = 0.05,
            .adding_steps = 60,
            .adding_parameters = 5000};
  return {.batch = 16,
          .context = 64,
          .steps = o.steps != 0 ? o.steps : 600,
          .evaluations = 20,
          .evaluation_batches = 16,
          .flow_steps = 101,
          .scaling_lengths = {32, 64, 128, 256, 512, 1024},
          .adding_lengths = {20, 50, 100},
          .stream_positions = {1, 64, 256, 1024},
          .scaling_seconds = 0.4,
          .adding_steps = 600,
          .adding_parameters = 10'000};
}

constexpr int layers_of_blocks = 3;

ModelConfig config_of(const std::string& name, const ModelConfig& base, std::int64_t parameters) {
  ModelConfig config = base;
  config.kind = model_kind(name);
  config.embedding = 64;
  config.layers = has_blocks(config.kind) ? layers_of_blocks : 2;
  config.heads = 4;
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

class Comparison {
 public:
  explicit Comparison(const CompareOptions& options)
      : options_(options), budget_(budget_of(options)) {
    if (options.models.empty()) fail("compare", "no models");
    for (auto name = options.models.begin(); name != options.models.end(); ++name)
      if (std::find(options.models.begin(), name, *name) != name)
        fail("compare", fmt::format("model '{}' is named twice", *name));
    if (options.seeds < 1) fail("compare", fmt::format("{} seeds", options.seeds));
    if (budget_.steps < 1) fail("compare", fmt::format("{} steps", budget_.steps));
    data_ = load_data(options, budget_.batch, budget_.context, budget_.evaluation_batches,
                      description_);
    for (const std::string& name : options.models)
      configs_.push_back(config_of(name, data_.base, options.parameters));
  }

  Json operator()() {
    const InterruptGuard interrupt;
    set_threads(options_.threads);
    const double models = static_cast<double>(configs_.size());
    const double train_weight = options_.seconds > 0 ? options_.seconds : 15;
    Whole whole(models * (train_weight * options_.seeds + 5 + 1 + 12));
    Json result{{"format", "unroll-results-1"},
                {"machine", machine_description(options_.threads)},
                {"task", description_},
                {"settings", settings()},
                {"models", Json::array()}};
    Json flows = Json::array(), streaming = Json::array(), scaling = Json::array(),
         adding = Json::array();
    for (std::size_t m = 0; m < configs_.size(); ++m) {
      const std::string& name = options_.models[m];
      Json runs = Json::array();
      std::unique_ptr<SequenceModel> model;
      for (int seed = 1; seed <= options_.seeds; ++seed) {
        whole.part("training " + name, train_weight);
        runs.push_back(run(name, configs_[m], seed, whole, flows, model));
      }
      result["models"].push_back(model_json(name, configs_[m], *model, runs));
      whole.part("streaming " + name, 1);
      Generator generator(11);
      for (const StreamingPoint& p :
           measure_streaming(*model, configs_[m], budget_.stream_positions, generator))
        streaming.push_back({{"model", name},
                             {"position", p.position},
                             {"microseconds", p.microseconds},
                             {"state_bytes", p.state_bytes}});
    }
    for (std::size_t m = 0; m < configs_.size(); ++m) {
      whole.part("scaling " + options_.models[m], 5);
      scaling.push_back(scaling_json(options_.models[m], configs_[m]));
    }
    for (std::size_t m = 0; m < configs_.size(); ++m) {
      whole.part("adding problem " + options_.models[m], 12);
      adding_points(options_.models[m], configs_[m], whole, adding);
    }
    Generator generator(13);
    flows.push_back(flow_json("linear", "theory 0.8^k",
                              linear_gradient_flow(0.8, budget_.flow_steps, 64, generator)));
    result["probes"] = {{"gradient_flow", {{"steps", budget_.flow_steps}, {"curves", flows}}},
                        {"scaling", {{"batch", scaling_batch}, {"models", scaling}}},
                        {"streaming", {{"points", streaming}}},
                        {"adding", {{"baseline", adding_baseline}, {"points", adding}}}};
    return result;
  }

 private:
  static constexpr std::int64_t scaling_batch = 4;
  static constexpr double learning_rate = 3e-3;

  Json settings() const {
    return {{"parameters", options_.parameters}, {"batch", budget_.batch},
            {"context", budget_.context},        {"steps", budget_.steps},
            {"seconds", options_.seconds},       {"seeds", options_.seeds},
            {"threads", options_.threads},       {"quick", options_.quick},
            {"learning_rate", learning_rate}};
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

  Json run(const std::string& name, const ModelConfig& config, int seed, Whole& whole, Json& flows,
           std::unique_ptr<SequenceModel>& model) const {
    Generator initial(static_cast<std::uint64_t>(seed));
    model = make_model(config, initial);
    if (seed == 1) flows.push_back(flow_json(name, "initial", flow(*model)));
    AdamW optimizer(decay_groups(model->named_parameters()),
                    {.learning_rate = learning_rate, .betas = {0.9, 0.99}, .weight_decay = 0.1});
    // The same batches for every model: their generator depends on the seed alone.
    Generator batches(static_cast<std::uint64_t>(1000 + seed));
    TrainTask task = data_.task;
    std::int64_t drawn = 0;
    const auto start = Clock::now();
    double evaluating = 0;  // which options.seconds does not count
    task.next = [&](Generator& g) {
      whole.update(options_.seconds > 0
                       ? (seconds_since(start) - evaluating) / options_.seconds
                       : static_cast<double>(drawn) / static_cast<double>(budget_.steps));
      ++drawn;
      return data_.task.next(g);
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
    if (seed == 1) flows.push_back(flow_json(name, "trained", flow(*model)));
    return {{"seed", seed},
            {"steps", trained.steps},
            {"tokens", trained.tokens},
            {"seconds", trained.seconds},
            {"best_loss", number(trained.best_loss)},
            {"final_loss", number(trained.curve.back().validation_loss)},
            {"peak_bytes", trained.peak_bytes},
            {"curve", curve_json(trained.curve)}};
  }

  static Json model_json(const std::string& name, const ModelConfig& config,
                         const SequenceModel& model, const Json& runs) {
    double best = 0, rate = 0;
    std::int64_t peak = 0;
    for (const Json& one : runs) {
      best += one.at("best_loss").is_null() ? std::nan("") : one.at("best_loss").get<double>();
      rate += one.at("tokens").get<double>() / one.at("seconds").get<double>();
      peak = std::max(peak, one.at("peak_bytes").get<std::int64_t>());
    }
    const auto n = static_cast<double>(runs.size());
    return {{"name", name},
            {"parameters", model.parameter_count()},
            {"hidden", config.hidden},
            {"layers", config.layers},
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
  std::vector<ModelConfig> configs_;
};

}  // namespace

Json compare(const CompareOptions& options) { return Comparison(options)(); }

}  // namespace unroll
