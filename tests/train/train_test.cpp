// The training loop and checkpoints.

#include <unroll/graph/tape.h>
#include <unroll/io/safetensors.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/train/checkpoint.h>

#include <cmath>
#include <csignal>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "../catch.h"
#include "../io/files.h"
#include "../tensors.h"
#include "setup.h"

using namespace unroll;
using namespace unroll::test;

namespace {

using Json = nlohmann::json;

// What later training steps do not write into.
StateDict copied(const StateDict& state) {
  StateDict result;
  for (const auto& [name, tensor] : state) result[name] = tensor.clone();
  return result;
}

}  // namespace

TEST_CASE("every kind of model learns a periodic text") {
  for (const ModelKind kind : every_kind) {
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

TEST_CASE("a checkpoint of layers of another kind is refused, though names and shapes are alike") {
  const TemporaryDirectory folder;
  const std::string file = (folder / "c.safetensors").string();
  ModelConfig config = small(ModelKind::transformer);
  Setup saved(config);
  save_checkpoint(file, *saved.model, *saved.optimizer, saved.generator, {});
  config.heads = 4;
  Setup other(config);
  TrainProgress progress;
  const auto load = [&](Setup& setup) {
    return load_checkpoint(file, *setup.model, *setup.optimizer, setup.generator, progress);
  };
  const StateDict before = copied(other.model->state_dict());
  const std::string message = message_of<DataError>([&] { load(other); });
  CAPTURE(message);
  CHECK(has(message, "2 heads"));
  CHECK(has(message, "4 heads"));
  CHECK(same_bits(other.model->state_dict(), before));
  CHECK(load(saved));
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
  refused("another text: '1' there and '2' here");
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
