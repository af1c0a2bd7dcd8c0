// Models, their folders, and generation.

#include <fmt/format.h>
#include <unroll/io/safetensors.h>
#include <unroll/io/text.h>
#include <unroll/train/model_dir.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "../catch.h"
#include "../io/files.h"
#include "../tensors.h"
#include "setup.h"

using namespace unroll;
using namespace unroll::test;

namespace {

using Json = nlohmann::json;

}  // namespace

TEST_CASE("a model folder round trip") {
  const TemporaryDirectory folder;
  const std::string text = "abcdefgh";
  const Vocabulary vocabulary = Vocabulary::characters(text);
  for (const ModelKind kind : every_kind)
    for (const Positions positions :
         {Positions::learned, Positions::rotary, Positions::sinusoidal}) {
      CAPTURE(to_string(kind));
      ModelConfig config = small(kind, 0.1);
      config.positions = positions;
      config.bias = kind != ModelKind::gru;
      config.tied = has_blocks(kind);
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
  for (const ModelKind kind : every_kind)
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
  // Ranks that grow with the size, from their least to their most.
  for (const std::int64_t hidden : {24, 200, 640}) {
    for (const ModelKind kind : {ModelKind::rwkv, ModelKind::mamba}) {
      ModelConfig config = small(kind);
      config.hidden = hidden;
      CHECK(parameter_count(config) == static_cast<double>(make_model(config)->parameter_count()));
    }
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
  refused([](ModelConfig& c) { c.kind = ModelKind::rwkv, c.heads = 3; }, "3 heads do not divide");
  refused([](ModelConfig& c) { c.kind = ModelKind::mamba, c.hidden = 0; }, "hidden must be 1");
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
  with("/model/layer_norm", 1);
  with("/model/layer_norm", true);  // whose parameters are not there
  with("/model/regularization", Json{{"zoneout", 0.1}});
  with("/model/regularization", Json{{"zoneout_h", "much"}});
  with("/model/regularization", Json{{"zoneout_h", 1.0}});
  with("/model/regularization", 0.1);
  with("/model/regularization", Json::array({0.1}));
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

TEST_CASE("a model folder whose files are of two kinds of model is refused") {
  const TemporaryDirectory folder;
  const Vocabulary vocabulary = Vocabulary::characters("abcdefgh");
  ModelConfig config = small(ModelKind::transformer);
  Generator g(1);
  save_model(folder / "model", config, vocabulary, *make_model(config, g));
  const std::string file = (folder / "model" / "model.safetensors").string();
  const std::string tensors = read_plainly(file);
  config.heads = 4;  // the same names and shapes
  save_model(folder / "model", config, vocabulary, *make_model(config, g));
  CHECK_NOTHROW(load_model(folder / "model"));
  write_plainly(file, tensors);
  const std::string message = message_of<DataError>([&] { load_model(folder / "model"); });
  CAPTURE(message);
  CHECK(has(message, "heads is 2 there and 4 here"));
  save_safetensors(file, load_safetensors(file));  // as others write it
  CHECK_NOTHROW(load_model(folder / "model"));
}

TEST_CASE("a regularised model is saved with what its evaluation needs") {
  const TemporaryDirectory folder;
  Generator g(1);
  ModelConfig config = small(ModelKind::lstm);
  config.layer_norm = true;
  config.regularization = {.input_dropout = 0.1, .zoneout_h = 0.2, .zoneout_c = 0.3};
  const auto model = make_model(config, g);
  CHECK(static_cast<double>(model->parameter_count()) == parameter_count(config));
  save_model(folder / "model", config, Vocabulary::characters("abcdefgh"), *model);
  const LanguageModel loaded = load_model(folder / "model");
  CHECK(loaded.config.layer_norm);
  CHECK(to_json(loaded.config) == to_json(config));
  const Tensor x = Tensor::from<std::int64_t>({1, 5, 2, 7}, {4, 1});
  model->eval();
  loaded.model->eval();
  const Tensor expected = (*model)(x).output;
  CHECK(same_bits((*loaded.model)(x).output, expected));
  // Zoneout is part of evaluation.
  config.regularization = {};
  const auto without = make_model(config, g);
  without->load_state_dict(model->state_dict());
  without->eval();
  CHECK(!same_bits((*without)(x).output, expected));
  CHECK(!has(to_json(config), "regularization"));

  for (const ModelKind kind : {ModelKind::rnn, ModelKind::gru, ModelKind::transformer}) {
    ModelConfig wrong = small(kind);
    wrong.layer_norm = true;
    CHECK(has(message_of([&] { make_model(wrong, g); }), "layer_norm"));
  }
  ModelConfig wrong = small(ModelKind::transformer);
  wrong.regularization.zoneout_h = 0.1;
  CHECK(has(message_of([&] { make_model(wrong, g); }), "dropout alone"));
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
  for (const ModelKind kind : every_kind)
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

TEST_CASE("a Transformer takes no sequence without a batch axis") {
  Generator g(5);
  for (const Positions positions : {Positions::learned, Positions::rotary, Positions::sinusoidal}) {
    CAPTURE(static_cast<int>(positions));
    ModelConfig config = small(ModelKind::transformer);
    config.positions = positions;
    const auto model = make_model(config, g);
    const std::string message = message_of([&] { (*model)(Tensor::zeros({5}, DType::i64)); });
    CHECK(has(message, fmt::format("[5, {}], expected [T, B, {}]", config.hidden, config.hidden)));
    CHECK(has(message, "unsqueeze()"));
  }
}

TEST_CASE("no output depends on a later input") {
  Generator g(6);
  for (const ModelKind kind : every_kind) {
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
  for (const char* name :
       {"perceptron", "rnn", "lstm", "gru", "mingru", "minlstm", "mamba", "rwkv", "transformer"})
    CHECK(has(message, name));
  for (const char* name :
       {"rnn", "lstm", "gru", "mingru", "minlstm", "mamba", "rwkv", "transformer"})
    CHECK(std::string(to_string(model_kind(name))) == name);
}
