// Batches, the training loop, checkpoints, model folders and generation.

#include <unroll/graph/tape.h>
#include <unroll/io/safetensors.h>
#include <unroll/io/text.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/loss.h>
#include <unroll/optim/adam.h>
#include <unroll/train/checkpoint.h>
#include <unroll/train/model_dir.h>
#include <unroll/train/trainer.h>

#include <cmath>
#include <csignal>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <sstream>

#include "../catch.h"
#include "../io/files.h"
#include "../tensors.h"

using namespace unroll;

namespace {

using Json = nlohmann::json;

std::vector<std::int64_t> counting(std::int64_t n) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(n));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}
std::vector<std::int64_t> periodic(std::int64_t n) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t i = 0; i < n; ++i) tokens.push_back(i % 5 < 3 ? i % 5 : (i / 5) % 4 + 3);
  return tokens;
}

Tensor token_loss(const Tensor& output, const Batch& batch) {
  return cross_entropy(output, batch.y);
}

ModelConfig small(ModelKind kind, double dropout = 0) {
  return {.kind = kind,
          .vocabulary = 8,
          .embedding = 12,
          .hidden = 16,
          .layers = 2,
          .heads = 2,
          .context = 32,
          .dropout = dropout};
}

// What later training steps do not write into.
StateDict copied(const StateDict& state) {
  StateDict result;
  for (const auto& [name, tensor] : state) result[name] = tensor.clone();
  return result;
}

// A model, its optimizer and a task on the periodic text.
struct Setup {
  std::vector<std::int64_t> tokens = periodic(2000);
  Generator generator{11};
  std::unique_ptr<SequenceModel> model;
  std::unique_ptr<AdamW> optimizer;
  RandomWindows windows{tokens, 4, 16};
  ContiguousWindows stream{tokens, 4, 16};
  TrainTask task;

  explicit Setup(const ModelConfig& config, bool carry = false)
      : model(make_model(config, generator)),
        optimizer(std::make_unique<AdamW>(decay_groups(model->named_parameters()),
                                          AdamWOptions{.learning_rate = 1e-2})) {
    task.loss = token_loss;
    task.carry_state = carry;
    task.next = [this, carry](Generator& g) { return carry ? stream.next() : windows.next(g); };
    task.at_start = [this] { return stream.at_start(); };
    task.seek = [this](std::int64_t n) { stream.seek(n % stream.batches() * 16); };
    task.evaluate = [this](SequenceModel& m) {
      TrainTask held = task;
      held.next = [this](Generator& g) { return windows.next(g); };
      return mean_loss(m, held, Generator(3), 4);
    };
  }
  TrainResult run(TrainOptions options) {
    options.label.clear();
    return train(*model, *optimizer, task, generator, options);
  }
};

}  // namespace

TEST_CASE("random windows: y is x one token later, everywhere in the stream") {
  const std::vector<std::int64_t> tokens = counting(12);
  const RandomWindows windows(tokens, 3, 4);
  Generator g(1);
  std::set<std::int64_t> starts;
  for (int i = 0; i < 200; ++i) {
    const Batch batch = windows.next(g);
    REQUIRE(batch.x.shape() == Shape{4, 3});
    for (std::int64_t b = 0; b < 3; ++b) {
      const std::int64_t start = batch.x.data<std::int64_t>()[static_cast<std::size_t>(b)];
      starts.insert(start);
      for (std::int64_t t = 0; t < 4; ++t) {
        const auto at = static_cast<std::size_t>(t * 3 + b);
        REQUIRE(batch.x.data<std::int64_t>()[at] == start + t);
        REQUIRE(batch.y.data<std::int64_t>()[at] == start + t + 1);
      }
    }
  }
  CHECK(starts.size() == 8);
  CHECK(*starts.rbegin() == 7);  // the last window's target is the last token
  CHECK_NOTHROW(RandomWindows(std::span(tokens).first(5), 3, 4).next(g));
  CHECK_THROWS_AS(RandomWindows(std::span(tokens).first(4), 3, 4), DataError);
  CHECK_THROWS_AS(RandomWindows(tokens, 0, 4), Error);
}

std::int64_t first(const Batch& batch) { return batch.x.data<std::int64_t>()[0]; }

TEST_CASE("the held-out tenth must hold a window, or the length that would do is said") {
  for (const std::int64_t steps : {1, 16, 64}) {
    CAPTURE(steps);
    const std::int64_t enough = 10 * steps + 1;
    CHECK(training_part("test", enough, steps, "rows") == 9 * steps);
    const std::string message =
        message_of<DataError>([&] { training_part("test", enough - 1, steps, "rows"); });
    CHECK(has(message, std::to_string(enough - 1) + " rows"));
    CHECK(has(message, "need " + std::to_string(enough)));
  }
  CHECK(training_part("test", 1009, 1, "rows") == 908);
}

TEST_CASE("contiguous windows continue each other, row by row, and begin again") {
  const std::vector<std::int64_t> tokens = counting(2 * 13 + 1);
  ContiguousWindows stream(tokens, 2, 4);
  CHECK(stream.batches() == 3);
  std::int64_t last[2] = {-1, 12};
  for (int i = 0; i < 3; ++i) {
    CHECK(stream.at_start() == (i == 0));
    const Batch batch = stream.next();
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t t = 0; t < 4; ++t) {
        const auto at = static_cast<std::size_t>(t * 2 + b);
        REQUIRE(batch.x.data<std::int64_t>()[at] == ++last[b]);
        REQUIRE(batch.y.data<std::int64_t>()[at] == last[b] + 1);
      }
  }
  CHECK(stream.at_start());
  CHECK(first(stream.next()) == 0);
  stream.seek(8);
  CHECK(first(stream.next()) == 8);
  CHECK_THROWS_AS(stream.seek(3), Error);
  CHECK_THROWS_AS(stream.seek(12), Error);
  CHECK_THROWS_AS(ContiguousWindows(tokens, 9, 4), DataError);
}

TEST_CASE("series windows: y is the target one step later") {
  Tensor series = Tensor::empty({10, 2});
  for (std::size_t i = 0; i < 20; ++i) series.mutable_data<float>()[i] = static_cast<float>(i);
  const RandomSeriesWindows windows(series, 1, 2, 3);
  Generator g(1);
  for (int i = 0; i < 50; ++i) {
    const Batch batch = windows.next(g);
    REQUIRE(batch.x.shape() == Shape{3, 2, 2});
    REQUIRE(batch.y.shape() == Shape{3, 2, 1});
    for (std::size_t k = 0; k < 6; ++k)
      REQUIRE(batch.y.data<float>()[k] == batch.x.data<float>()[2 * k] + 3);
  }
  CHECK_THROWS_AS(RandomSeriesWindows(series, 2, 2, 3), Error);
  CHECK_THROWS_AS(RandomSeriesWindows(series, 0, 2, 10), DataError);
}

TEST_CASE("every kind of model learns a periodic text") {
  for (const ModelKind kind :
       {ModelKind::rnn, ModelKind::lstm, ModelKind::gru, ModelKind::transformer}) {
    CAPTURE(to_string(kind));
    Setup setup(small(kind));
    const TrainResult result = setup.run({.steps = 200, .clip_norm = 1, .evaluate_every = 50});
    CHECK(result.steps == 200);
    CHECK(result.tokens == 200 * 4 * 16);
    CHECK(result.curve.size() == 4);
    CHECK(result.peak_bytes > 0);
    CHECK(!result.interrupted);
    // Two of five tokens hang on the five before, three on the place in the period.
    CHECK(result.curve.back().validation_loss < 0.4);
    CHECK(result.best_loss <= result.curve.back().validation_loss);
    CHECK(result.best_loss < std::log(8.0) / 4);
  }
}

TEST_CASE("a resumed run gives the bits of one that was never interrupted") {
  for (const ModelKind kind : {ModelKind::lstm, ModelKind::transformer})
    for (const bool carry : {false, true}) {
      if (carry && kind == ModelKind::transformer) continue;
      CAPTURE(to_string(kind), carry);
      const TemporaryDirectory folder;
      const std::string file = (folder / "checkpoint.safetensors").string();
      const ModelConfig config = small(kind, 0.2);
      const Schedule rate = schedule::cosine({.rate = 1e-2, .steps = 60, .warmup_steps = 5});
      const TrainOptions options{.steps = 60,
                                 .schedule = rate,
                                 .clip_norm = 0.5,
                                 .evaluate_every = 20,
                                 .checkpoint = file,
                                 .resume = true};
      Setup whole(config, carry);
      const TrainResult expected =
          whole.run({.steps = 60, .schedule = rate, .clip_norm = 0.5, .evaluate_every = 20});
      {
        Setup first(config, carry);
        TrainOptions part = options;
        part.steps = 40;
        first.run(part);
      }
      Setup second(config, carry);
      const TrainResult result = second.run(options);
      CHECK(result.steps == 60);
      CHECK(result.tokens == expected.tokens);
      REQUIRE(result.curve.size() == 3);
      for (std::size_t i = 0; i < 3; ++i) {
        CHECK(result.curve[i].validation_loss == expected.curve[i].validation_loss);
        CHECK(result.curve[i].train_loss == expected.curve[i].train_loss);
      }
      CHECK(same_bits(second.model->state_dict(), whole.model->state_dict()));
      CHECK(same_bits(second.optimizer->state_dict(), whole.optimizer->state_dict()));
      CHECK(second.generator.position() == whole.generator.position());
    }
}

TEST_CASE("an interrupt between evaluations leaves no trace in the log") {
  const TemporaryDirectory folder;
  const ModelConfig config = small(ModelKind::rnn);
  const TrainOptions options{.steps = 30,
                             .evaluate_every = 10,
                             .checkpoint = (folder / "c.safetensors").string(),
                             .resume = true};
  Setup whole(config);
  const TrainResult expected = whole.run({.steps = 30, .evaluate_every = 10});
  {
    Setup first(config);
    int drawn = 0;
    first.task.next = [&](Generator& g) {
      if (++drawn == 16) std::raise(SIGINT);
      return first.windows.next(g);
    };
    const TrainResult part = first.run(options);
    REQUIRE(part.interrupted);
    REQUIRE(part.steps == 16);
  }
  Setup second(config);
  const TrainResult result = second.run(options);
  REQUIRE(result.curve.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(result.curve[i].step == expected.curve[i].step);
    CHECK(result.curve[i].train_loss == expected.curve[i].train_loss);
    CHECK(result.curve[i].validation_loss == expected.curve[i].validation_loss);
  }
}

TEST_CASE("carrying the state across batches changes what is learned, dropping it does not leak") {
  Setup carried(small(ModelKind::lstm), true), dropped(small(ModelKind::lstm), true);
  dropped.task.carry_state = false;
  carried.run({.steps = 10});
  dropped.run({.steps = 10});
  CHECK(!same_bits(carried.model->state_dict(), dropped.model->state_dict()));
}

TEST_CASE("a loss that is not finite names the step and keeps the parameters") {
  Setup setup(small(ModelKind::gru));
  int calls = 0;
  setup.task.evaluate = nullptr;
  setup.task.loss = [&](const Tensor& output, const Batch& batch) {
    const Tensor loss = token_loss(output, batch);
    return ++calls == 4 ? loss * std::numeric_limits<double>::quiet_NaN() : loss;
  };
  setup.run({.steps = 3});
  const StateDict before = copied(setup.model->state_dict());
  calls = 3;
  const std::string message = message_of<Error>([&] { setup.run({.steps = 9}); });
  CAPTURE(message);
  CHECK(has(message, "the loss of step 0 is nan"));
  CHECK(same_bits(before, setup.model->state_dict()));
  CHECK(Tape::current() == nullptr);
}

TEST_CASE("early stopping waits for patience evaluations without a better loss") {
  Setup setup(small(ModelKind::rnn));
  std::vector<double> losses{5, 4, 4.5, 4.2, 4.1, 1};
  std::size_t next = 0;
  setup.task.evaluate = [&](SequenceModel&) { return losses.at(next++); };
  const TrainResult result = setup.run({.steps = 100, .evaluate_every = 2, .patience = 3});
  CHECK(result.steps == 10);
  CHECK(result.curve.size() == 5);
  CHECK(result.best_loss == 4);
}

TEST_CASE("a validation loss that is NaN is worse than any") {
  Setup setup(small(ModelKind::rnn));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> losses{nan, 3, nan, 2, 4, 5};
  std::size_t next = 0;
  setup.task.evaluate = [&](SequenceModel&) { return losses.at(next++); };
  const TrainResult result = setup.run({.steps = 100, .evaluate_every = 2, .patience = 2});
  CHECK(result.steps == 12);
  CHECK(result.best_loss == 2);
}

TEST_CASE("the log holds one line of JSON an evaluation, and goes on after a resume") {
  const TemporaryDirectory folder;
  const TrainOptions options{.steps = 6,
                             .evaluate_every = 2,
                             .log = (folder / "log.jsonl").string(),
                             .checkpoint = (folder / "c.safetensors").string(),
                             .resume = true};
  {
    Setup setup(small(ModelKind::rnn));
    TrainOptions part = options;
    part.steps = 4;
    setup.run(part);
  }
  Setup setup(small(ModelKind::rnn));
  setup.run(options);
  std::istringstream lines(read_plainly(folder / "log.jsonl"));
  std::string line;
  for (std::int64_t step : {2, 4, 6}) {
    REQUIRE(std::getline(lines, line));
    const Json json = Json::parse(line);
    CHECK(json.at("step") == step);
    CHECK(json.at("tokens") == step * 64);
    CHECK(json.at("train_loss").get<double>() > 0);
    CHECK(json.at("validation_loss").get<double>() > 0);
    CHECK(json.at("learning_rate") == 1e-2);
    CHECK(json.at("precision") == "f32");
  }
  CHECK(!std::getline(lines, line));
  CHECK_THROWS_AS(setup.run({.steps = 9, .log = "/nowhere/log"}), DataError);
}

TEST_CASE("evaluation runs without dropout and without a tape, training goes on with it") {
  Setup setup(small(ModelKind::lstm, 0.5));
  bool training = true, tape = true;
  setup.task.evaluate = [&](SequenceModel& m) {
    training = m.training();
    tape = Tape::current() != nullptr;
    return 1.0;
  };
  setup.run({.steps = 2, .evaluate_every = 1});
  CHECK(!training);
  CHECK(!tape);
  CHECK(setup.model->training());
}

TEST_CASE("a checkpoint of another model, or a damaged one, changes nothing") {
  const TemporaryDirectory folder;
  const std::string file = (folder / "c.safetensors").string();
  {
    Setup other(small(ModelKind::gru));
    other.run({.steps = 3, .checkpoint = file});
  }
  Setup setup(small(ModelKind::lstm));
  setup.run({.steps = 2});
  const StateDict model = copied(setup.model->state_dict());
  const StateDict optimizer = copied(setup.optimizer->state_dict());
  const std::uint64_t position = setup.generator.position();
  const auto refused = [&] {
    TrainProgress progress;
    progress.step = 77;
    CHECK_THROWS_AS(
        load_checkpoint(file, *setup.model, *setup.optimizer, setup.generator, progress),
        DataError);
    CHECK(same_bits(model, setup.model->state_dict()));
    CHECK(same_bits(optimizer, setup.optimizer->state_dict()));
    CHECK(setup.generator.position() == position);
    CHECK(progress.step == 77);
  };
  SECTION("another model") { refused(); }
  SECTION("not a file of tensors") {
    write_plainly(file, "no");
    refused();
  }
  SECTION("cut off") {
    const std::string whole = read_plainly(file);
    write_plainly(file, whole.substr(0, whole.size() / 2));
    refused();
  }
  SECTION("without metadata") {
    save_safetensors(file, load_safetensors(file));
    refused();
  }
  SECTION("with metadata of another kind") {
    save_safetensors(file, load_safetensors(file), {{"training", "{\"step\": \"three\"}"}});
    refused();
  }
  SECTION("with the tensors of this model and another optimizer's") {
    save_checkpoint(file, *setup.model, *setup.optimizer, setup.generator, {});
    Metadata metadata;
    std::map<std::string, Tensor> tensors = load_safetensors(file, &metadata);
    tensors["optimizer.nonsense"] = Tensor::zeros({1});
    save_safetensors(file, tensors, metadata);
    refused();
  }
  SECTION("none at all") {
    TrainProgress progress;
    CHECK(!load_checkpoint((folder / "none").string(), *setup.model, *setup.optimizer,
                           setup.generator, progress));
  }
}

TEST_CASE("a run resumes on what it began with alone") {
  const TemporaryDirectory folder;
  TrainOptions options{.steps = 3,
                       .log = (folder / "log.jsonl").string(),
                       .checkpoint = (folder / "c.safetensors").string(),
                       .resume = true};
  {
    Setup setup(small(ModelKind::rnn));
    setup.run(options);  // as an earlier version wrote it
  }
  const auto refused = [&](const char* named) {
    const std::string log = read_plainly(options.log), file = read_plainly(options.checkpoint);
    Setup setup(small(ModelKind::rnn));
    const std::string message = message_of<DataError>([&] { setup.run(options); });
    CAPTURE(message);
    CHECK(has(message, named));
    CHECK(read_plainly(options.log) == log);
    CHECK(read_plainly(options.checkpoint) == file);
  };
  options.identity = {{"text", "1"}};
  options.steps = 6;
  refused("of which text");
  options.resume = false;
  {
    Setup setup(small(ModelKind::rnn));
    setup.run(options);
  }
  options.resume = true;
  options.steps = 9;
  options.identity = {{"text", "2"}};
  refused("another text");
  options.identity = {{"text", "1"}};
  Setup setup(small(ModelKind::rnn));
  CHECK(setup.run(options).steps == 9);
}

TEST_CASE("a checkpoint survives losses that are not finite") {
  const TemporaryDirectory folder;
  const std::string file = (folder / "c.safetensors").string();
  Setup setup(small(ModelKind::rnn));
  TrainProgress progress;
  progress.step = 4;
  progress.best = std::numeric_limits<double>::quiet_NaN();
  progress.curve.push_back(
      {.step = 4, .tokens = 9, .seconds = 1, .train_loss = NAN, .validation_loss = INFINITY});
  save_checkpoint(file, *setup.model, *setup.optimizer, setup.generator, progress);
  TrainProgress back;
  CHECK(load_checkpoint(file, *setup.model, *setup.optimizer, setup.generator, back));
  CHECK(back.step == 4);
  REQUIRE(back.curve.size() == 1);
  CHECK(std::isnan(back.curve[0].train_loss));
}

TEST_CASE("a model folder round trip") {
  const TemporaryDirectory folder;
  const std::string text = "abcdefgh";
  const Vocabulary vocabulary = Vocabulary::characters(text);
  for (const ModelKind kind :
       {ModelKind::rnn, ModelKind::lstm, ModelKind::gru, ModelKind::transformer})
    for (const Positions positions :
         {Positions::learned, Positions::rotary, Positions::sinusoidal}) {
      CAPTURE(to_string(kind));
      ModelConfig config = small(kind, 0.1);
      config.positions = positions;
      config.bias = kind != ModelKind::gru;
      config.tied = kind == ModelKind::transformer;
      Generator g(1);
      const auto model = make_model(config, g);
      save_model(folder / "model", config, vocabulary, *model);
      const LanguageModel loaded = load_model(folder / "model");
      CHECK(same_bits(loaded.model->state_dict(), model->state_dict()));
      CHECK(loaded.vocabulary == vocabulary);
      CHECK(to_json(loaded.config) == to_json(config));
      CHECK(!loaded.model->training());
      model->eval();
      const Tensor x = vocabulary.encode_tensor("badcafe").viewed({7, 1});
      CHECK(difference((*model)(x).output, (*loaded.model)(x).output) == 0);
    }
  CHECK(to_json(config_from_json(to_json(small(ModelKind::gru)))) ==
        to_json(small(ModelKind::gru)));
}

TEST_CASE("the number of parameters is known before a model is made") {
  for (const ModelKind kind :
       {ModelKind::rnn, ModelKind::lstm, ModelKind::gru, ModelKind::transformer})
    for (const bool bias : {false, true})
      for (const bool tied : {false, true})
        for (const Positions positions :
             {Positions::learned, Positions::rotary, Positions::sinusoidal})
          for (const int layers : {1, 3}) {
            ModelConfig config = small(kind);
            config.embedding = tied ? config.hidden : 6;
            config.bias = bias;
            config.tied = tied;
            config.positions = positions;
            config.layers = layers;
            CAPTURE(to_json(config));
            CHECK(parameter_count(config) ==
                  static_cast<double>(make_model(config)->parameter_count()));
            if (tied) continue;
            config.vocabulary = 0;
            config.features = 3;
            config.outputs = 2;
            CHECK(parameter_count(config) ==
                  static_cast<double>(make_model(config)->parameter_count()));
          }
}

TEST_CASE("a model that cannot be is refused before it is made") {
  const auto refused = [](auto change, const char* why) {
    ModelConfig config = small(ModelKind::transformer);
    change(config);
    CAPTURE(why);
    CHECK(has(message_of([&] { make_model(config); }), why));
  };
  refused([](ModelConfig& c) { c.hidden = 0; }, "hidden must be 1 or more, got 0");
  refused([](ModelConfig& c) { c.hidden = std::int64_t{1} << 62; }, "more than any machine");
  refused([](ModelConfig& c) { c.layers = -1; }, "layers must be 1 or more");
  refused([](ModelConfig& c) { c.heads = 3; }, "3 heads do not divide");
  refused([](ModelConfig& c) { c.heads = c.hidden; }, "an even number of units a head");
  refused([](ModelConfig& c) { c.heads = 0; }, "heads must be 1 or more");
  ModelConfig config = small(ModelKind::transformer);
  config.heads = 0;
  CHECK_THROWS_AS(sized(config, 10'000), Error);
  CHECK_THROWS_AS(make_model(sized(small(ModelKind::lstm), std::int64_t{1} << 62)), Error);
}

TEST_CASE("a malformed model folder is a DataError") {
  const TemporaryDirectory folder;
  Generator g(1);
  const ModelConfig config = small(ModelKind::lstm);
  const auto model = make_model(config, g);
  const std::filesystem::path path = folder / "model", file = path / "config.json";
  save_model(path, config, Vocabulary::characters("abcdefgh"), *model);
  const Json good = Json::parse(read_plainly(file));
  const auto with = [&](const char* pointer, const Json& value) {
    Json json = good;
    json[Json::json_pointer(pointer)] = value;
    write_plainly(file, json.dump());
    CAPTURE(pointer, value.dump());
    CHECK_THROWS_AS(load_model(path), DataError);
  };
  CHECK_NOTHROW(load_model(path));
  with("/format", "unroll-model-2");
  with("/model/kind", "perceptron");
  with("/model/kind", 3);
  with("/model/kind", "gru");  // not what the tensors are
  with("/model/hidden", 17);
  with("/model/hidden", 0);
  with("/model/hidden", -4);
  with("/model/hidden", "many");
  with("/model/hidden", std::int64_t{1} << 60);
  with("/model/hidden", (1 << 24));  // more than the file has, and than can be made
  with("/model/hidden", 16.5);
  with("/model/layers", (std::int64_t{1} << 32) + 2);  // 2 in 32 bits
  with("/model/layers", 0);
  with("/model/layers", 3);
  with("/model/dropout", 1.5);
  with("/model/vocabulary", 9);
  with("/model/vocabulary", 0);
  with("/model/positions", "polar");
  with("/model/tied", true);
  with("/vocabulary", Json::object());
  with("/vocabulary", 5);
  for (const char* text : {"{", "[]", "null", "{}", "{\"format\": \"unroll-model-1\"}"}) {
    write_plainly(file, text);
    CAPTURE(text);
    CHECK_THROWS_AS(load_model(path), DataError);
  }
  write_plainly(file, good.dump());
  std::filesystem::remove(path / "model.safetensors");
  CHECK_THROWS_AS(load_model(path), DataError);
  write_plainly(path / "model.safetensors", "short");
  CHECK_THROWS_AS(load_model(path), DataError);
  CHECK_THROWS_AS(load_model(folder / "nothing"), DataError);
  for (const char* text : {"", "{", "7", "{\"kind\": \"lstm\"}"})
    CHECK_THROWS_AS(config_from_json(text), DataError);
}

TEST_CASE("generation: deterministic at temperature 0 and by seed, and what was learned") {
  LanguageModel model;
  model.config = small(ModelKind::lstm);
  model.vocabulary = Vocabulary::characters("abcdefgh");
  Setup setup(model.config);
  setup.run({.steps = 200, .clip_norm = 1});
  model.model = std::move(setup.model);
  Generator a(1), b(2);
  const std::string one = generate(model, "abcd", 30, 0, a);
  CHECK(one == generate(model, "abcd", 30, 0, b));
  CHECK(one.size() == 30);
  CHECK(has(one, "abc"));
  Generator c(3), d(3), e(4);
  const std::string drawn = generate(model, "abc", 60, 2.0, c);
  CHECK(drawn == generate(model, "abc", 60, 2.0, d));
  CHECK(drawn != generate(model, "abc", 60, 2.0, e));
  CHECK(generate(model, "a", 0, 1, c).empty());
  CHECK_THROWS_AS(generate(model, "", 5, 1, c), Error);
  CHECK_THROWS_AS(generate(model, "z", 5, 1, c), DataError);
  CHECK_THROWS_AS(generate(model, "a", 5, -1, c), Error);
  CHECK_THROWS_AS(generate(model, "a", 5, NAN, c), Error);
  CHECK_THROWS_AS(generate(model, "a", -5, 1, c), Error);
}

TEST_CASE("step by step with the state carried gives what the whole sequence gives") {
  Generator g(5);
  for (const ModelKind kind :
       {ModelKind::rnn, ModelKind::lstm, ModelKind::gru, ModelKind::transformer})
    for (const Positions positions :
         {Positions::learned, Positions::rotary, Positions::sinusoidal}) {
      CAPTURE(to_string(kind), static_cast<int>(positions));
      ModelConfig config = small(kind, 0.3);
      config.positions = positions;
      const auto model = make_model(config, g);
      model->eval();
      Tensor tokens = Tensor::empty({20, 2}, DType::i64);
      for (std::int64_t& token : tokens.mutable_data<std::int64_t>()) token = g.below(8);
      const Output whole = (*model)(tokens);
      for (const std::int64_t chunk : {1, 7}) {
        State state;
        for (std::int64_t t = 0; t < 20; t += chunk) {
          const std::int64_t end = std::min<std::int64_t>(20, t + chunk);
          const Output part = (*model)(tokens.rows(t, end), state);
          CHECK(difference(part.output, whole.output.rows(t, end)) < 1e-5);
          state = part.state;
        }
        REQUIRE(state.size() == whole.state.size());
        for (std::size_t k = 0; k < state.size(); ++k)
          CHECK(difference(state[k], whole.state[k]) < 1e-5);
      }
      CHECK(model->constant_state() == (kind != ModelKind::transformer));
    }
}

TEST_CASE("no output depends on a later input") {
  Generator g(6);
  for (const ModelKind kind : {ModelKind::gru, ModelKind::transformer}) {
    const auto model = make_model(small(kind), g);
    model->eval();
    Tensor tokens = Tensor::zeros({10, 1}, DType::i64);
    const Tensor before = (*model)(tokens).output;
    Tensor changed = tokens.clone();
    changed.mutable_data<std::int64_t>()[6] = 5;
    const Tensor after = (*model)(changed).output;
    CHECK(difference(before.rows(0, 6), after.rows(0, 6)) < 1e-6);
    CHECK(difference(before.rows(6, 7), after.rows(6, 7)) > 1e-3);
  }
}

TEST_CASE("models of real features, and configs that make none") {
  Generator g(7);
  const auto model = make_model(
      {.kind = ModelKind::lstm, .features = 3, .outputs = 2, .embedding = 4, .hidden = 5}, g);
  CHECK((*model)(Tensor::zeros({6, 2, 3})).output.shape() == Shape{6, 2, 2});
  CHECK_THROWS_AS(make_model({.kind = ModelKind::lstm}, g), Error);
  CHECK_THROWS_AS(make_model({.vocabulary = 5, .hidden = 0}, g), Error);
  CHECK_THROWS_AS(make_model({.vocabulary = 5, .layers = 0}, g), Error);
  CHECK_THROWS_AS(
      make_model({.kind = ModelKind::transformer, .vocabulary = 5, .hidden = 10, .heads = 3}, g),
      Error);
  const std::string message = message_of<Error>([] { model_kind("perceptron"); });
  for (const char* name : {"perceptron", "rnn", "lstm", "gru", "transformer"})
    CHECK(has(message, name));
  for (const char* name : {"rnn", "lstm", "gru", "transformer"})
    CHECK(std::string(to_string(model_kind(name))) == name);
}
