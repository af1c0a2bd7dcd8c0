#include <unroll/io/safetensors.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/gemm_row.h>
#include <unroll/train/stream.h>

#include <cmath>
#include <functional>

#include "../catch.h"
#include "../tensors.h"
#include "setup.h"

using namespace unroll;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double most = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i)
    most = std::max(most, std::abs(static_cast<double>(a.ptr<float>()[i]) -
                                   static_cast<double>(b.ptr<float>()[i])));
  return most;
}

Tensor random_tokens(const Shape& shape, Generator& g) {
  Tensor tokens = Tensor::empty(shape, DType::i64);
  for (std::int64_t& token : tokens.mutable_data<std::int64_t>()) token = g.below(8);
  return tokens;
}

std::unique_ptr<SequenceModel> model_of(const ModelConfig& config, Generator& g) {
  auto model = make_model(config, g);
  // Away from the initial values, at which norms and biases hide what they do.
  for (auto& [name, parameter] : model->named_parameters()) {
    Tensor& value = parameter.mutable_value();
    const Tensor noise = g.normal(value.shape(), 0, 0.1);
    for (std::int64_t i = 0; i < value.numel(); ++i)
      value.mutable_ptr<float>()[i] += noise.ptr<float>()[i];
  }
  model->eval();
  return model;
}

// Step by step as all at once, for one stream and three.
void check_stream(SequenceModel& model, const StreamOptions& options, std::int64_t steps,
                  Generator& g) {
  for (const std::int64_t batch : {1, 3}) {
    const Tensor x = random_tokens({steps, batch}, g);
    const Tensor whole = model(x).output;
    Stream stream(model, options);
    for (std::int64_t t = 0; t < steps; ++t) {
      INFO("batch " << batch << ", step " << t);
      REQUIRE(largest_difference(stream.step(x.row(t)), whole.row(t)) < 1e-5);
    }
    CHECK(stream.position(0) == steps);
  }
}

}  // namespace

TEST_CASE("a stream gives what the whole sequence gives, for every kind of model") {
  Generator g(5);
  for (const ModelKind kind : test::every_kind) {
    INFO(to_string(kind));
    const auto model = model_of(test::small(kind), g);
    const bool attends = kind == ModelKind::transformer;
    check_stream(*model, {.window = attends ? 24 : 0}, 24, g);
  }
}

TEST_CASE("a stream of every position code, and of a sliding window, equals the whole sequence") {
  Generator g(6);
  for (const Positions positions : {Positions::learned, Positions::rotary, Positions::sinusoidal})
    for (const std::int64_t window : {0, 5}) {
      INFO("positions " << static_cast<int>(positions) << ", window " << window);
      ModelConfig config = test::small(ModelKind::transformer);
      config.positions = positions;
      config.window = window;
      const auto model = model_of(config, g);
      check_stream(*model, {.window = window > 0 ? 0 : 32}, 30, g);
    }
  // The window of a stream counts where the model has none: it cannot be the whole sequence's.
  const auto model = model_of(test::small(ModelKind::transformer), g);
  const Tensor x = random_tokens({12, 1}, g);
  Stream narrow(*model, {.window = 4});
  Tensor last;
  for (std::int64_t t = 0; t < 12; ++t) last = narrow.step(x.row(t));
  CHECK(largest_difference(last, (*model)(x).output.row(11)) > 1e-4);
}

TEST_CASE("attention sinks are seen beside the window, at the cache's positions") {
  // Of one layer, the output at step t is that of a sequence of what the cache holds: sinks, then
  // the window, at the positions 0, 1, ... (rotary codes tell no more than differences).
  Generator g(7);
  ModelConfig config = test::small(ModelKind::transformer);
  config.layers = 1;
  const auto model = model_of(config, g);
  constexpr std::int64_t steps = 40, window = 6, sinks = 3;
  const Tensor x = random_tokens({steps, 1}, g);
  Stream stream(*model, {.window = window, .sinks = sinks});
  for (std::int64_t t = 0; t < steps; ++t) {
    std::vector<std::int64_t> seen;
    for (std::int64_t s = 0; s <= t; ++s)
      if (s < sinks || s > t - window) seen.push_back(x.ptr<std::int64_t>()[s]);
    const auto count = static_cast<std::int64_t>(seen.size());
    const Tensor expected = (*model)(Tensor::from(seen, {count, 1})).output.row(count - 1);
    INFO("step " << t);
    REQUIRE(largest_difference(stream.step(x.row(t)), expected) < 1e-5);
  }
}

TEST_CASE("layers, layers with zoneout and cells stream too") {
  Generator g(8);
  const auto check = [&](const RecurrentLayer& layer) {
    const Tensor x = g.normal({9, 2, 5}, 0, 1);
    const Tensor whole = layer(x).output;
    Stream stream(layer);
    for (std::int64_t t = 0; t < 9; ++t)
      CHECK(largest_difference(stream.step(x.row(t)), whole.row(t)) < 1e-5);
  };
  check(RNN({.input_size = 5, .hidden_size = 19, .num_layers = 2, .relu = true}, g));
  check(GRU({.input_size = 5, .hidden_size = 19, .num_layers = 2, .reset_before = true}, g));
  check(LSTM({.input_size = 5, .hidden_size = 19, .proj_size = 7, .layer_norm = true}, g));
  LSTM zoned(
      {.input_size = 5, .hidden_size = 19, .regularization = {.zoneout_h = 0.3, .zoneout_c = 0.2}},
      g);
  CHECK_THROWS_AS(Stream(zoned), Error);  // in training
  zoned.eval();
  check(zoned);
  CHECK_THROWS_AS(Stream(LSTM({.input_size = 5, .hidden_size = 4, .bidirectional = true}, g)),
                  Error);
  const GRUCell cell({.input_size = 5, .hidden_size = 6}, g);
  Stream stream(cell);
  const Tensor x = g.normal({1, 5}, 0, 1);
  const Output first = cell(x, cell.initial_state(1, DType::f32));
  CHECK(largest_difference(stream.step(x), first.output) < 1e-6);
  CHECK(largest_difference(stream.step(x), cell(x, first.state).output) < 1e-6);
}

TEST_CASE("a model that drops values is streamed in eval() alone") {
  Generator g(8);
  const auto model = make_model(test::small(ModelKind::gru, 0.2), g);
  const Tensor x = random_tokens({2}, g);
  CHECK_THROWS_AS(Stream(*model).step(x), Error);
  model->eval();
  CHECK_NOTHROW(Stream(*model).step(x));
}

TEST_CASE("streams join, leave, pause, and are saved, copied, restored and reset") {
  Generator g(9);
  for (const ModelKind kind : {ModelKind::lstm, ModelKind::mamba, ModelKind::transformer}) {
    INFO(to_string(kind));
    const auto model = model_of(test::small(kind), g);
    const StreamOptions options{.window = kind == ModelKind::transformer ? 8 : 0};
    Stream stream(*model, options);
    // Each stream beside a Stream of its own.
    std::map<std::int64_t, Stream> alone;
    for (int round = 0; round < 40; ++round) {
      std::vector<std::int64_t> ids;
      for (const std::int64_t id : {7, -2, 30, 4, 11})
        if (g.below(3) > 0) ids.push_back(id);
      if (ids.empty()) continue;
      const Tensor x = random_tokens({static_cast<std::int64_t>(ids.size())}, g);
      const Tensor y = stream.step(ids, x);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i);
        auto own = alone.try_emplace(ids[i], *model, options).first;
        REQUIRE(largest_difference(y.rows(row, row + 1), own->second.step(x.rows(row, row + 1))) <
                1e-5);
        REQUIRE(stream.position(ids[i]) == own->second.position());
      }
      if (round % 9 == 5) {
        stream.leave(ids[0]);
        alone.erase(ids[0]);
      }
      if (round % 9 == 7) {
        stream.reset(ids[0]);
        alone.at(ids[0]).reset();
      }
    }
    // A copy goes on as the original, bit for bit, also by way of a file and another Stream.
    const Tensor x = random_tokens({2}, g);
    const Tensor one = x.rows(0, 1), two = x.rows(1, 2);
    stream.step({7}, one);
    const StreamState saved = stream.state(7);
    const auto bytes = serialize_safetensors(saved.to_dict());
    const Tensor next = stream.step({7}, two).clone();
    stream.restore(saved, 99);
    CHECK(same_bits(stream.step({99}, two), next));
    Stream other(*model, options);
    other.restore(StreamState::from_dict(parse_safetensors(bytes)));
    CHECK(same_bits(other.step(two), next));
    CHECK(other.position() == saved.position + 1);
    stream.restore(saved, 99);  // while its row is in use
    CHECK(same_bits(stream.step({99}, two), next));
    Stream fresh(*model, options);
    stream.reset(99);
    CHECK(same_bits(stream.step({99}, two), fresh.step(two)));
  }
}

TEST_CASE("a stream reads parameters that have changed") {
  Generator g(10);
  const auto model = model_of(test::small(ModelKind::gru), g);
  const Tensor x = random_tokens({1}, g);
  Stream stream(*model), later(*model);
  const Tensor before = stream.step(x).clone();
  for (auto& [name, parameter] : model->named_parameters())
    for (float& one : parameter.mutable_value().mutable_data<float>()) one *= 1.5F;
  stream.reset();
  const Tensor after = stream.step(x);
  CHECK(largest_difference(before, after) > 1e-3);
  CHECK(same_bits(after, later.step(x)));
}

TEST_CASE("what cannot be streamed is refused, and nothing has moved") {
  Generator g(11);
  ModelConfig config = test::small(ModelKind::transformer);
  const auto rotary = model_of(config, g);
  CHECK_THROWS_AS(Stream(*rotary), Error);  // without a bound
  CHECK_THROWS_AS(Stream(*model_of(test::small(ModelKind::rnn), g), {.window = 4}), Error);
  config.positions = Positions::learned;
  config.context = 4;
  const auto learned = model_of(config, g);
  Stream stream(*learned);
  const Tensor x = random_tokens({1}, g);
  for (int t = 0; t < 4; ++t) stream.step(x);
  const StreamState before = stream.state();
  CHECK_THROWS_AS(stream.step(x), Error);
  CHECK(stream.position() == 4);
  CHECK(same_bits(stream.state().state[0], before.state[0]));
  stream.reset();
  CHECK_NOTHROW(stream.step(x));
  CHECK_THROWS_AS(stream.step({1, 1}, random_tokens({2}, g)), Error);
  CHECK_THROWS_AS(stream.step({1, 2}, x), Error);
  CHECK_THROWS_AS(stream.step({}, random_tokens({0}, g)), Error);
  CHECK_THROWS_AS(stream.restore({.position = 1, .state = {}}), Error);
  CHECK_THROWS_AS(StreamState::from_dict({{"state.0", Tensor::zeros({1})}}), Error);
}

TEST_CASE("a step that fails joins no stream, and the others stay where they were") {
  Generator g(13);
  ModelConfig config = test::small(ModelKind::gru);
  config.vocabulary = 8;
  const auto model = model_of(config, g);
  Stream stream(*model), twin(*model);
  const Tensor two = random_tokens({2}, g);
  for (Stream* one : {&stream, &twin}) one->step({1, 2}, two);
  const auto stands = [&] {
    CHECK(stream.ids() == std::vector<std::int64_t>{1, 2});
    for (const std::int64_t id : {1, 2}) {
      CHECK(stream.position(id) == twin.position(id));
      CHECK(same_bits(stream.state(id).state[0], twin.state(id).state[0]));
    }
  };
  // A token that the model does not know: the replay itself throws.
  const Tensor wrong = Tensor::from<std::int64_t>({1, 2, 99}, {3});
  CHECK(has(message_of([&] { stream.step({1, 2, 9}, wrong); }), "index 99"));
  stands();
  CHECK_THROWS_AS(stream.step({9, 7, 8}, wrong), Error);
  stands();
  CHECK_THROWS_AS(stream.step({1, 2}, wrong.rows(1, 3)), Error);
  stands();
  CHECK_THROWS_AS(stream.step({9}, Tensor::zeros({1, 4})), Error);
  stands();
  const Tensor three = random_tokens({3}, g);
  CHECK(same_bits(stream.step({1, 2, 9}, three), twin.step({1, 2, 9}, three)));
  CHECK(same_bits(stream.step({9, 1}, two), twin.step({9, 1}, two)));
}

TEST_CASE("a stream's context ends before anything moves or joins") {
  Generator g(14);
  ModelConfig config = test::small(ModelKind::transformer);
  config.positions = Positions::learned;
  config.context = 3;
  const auto model = model_of(config, g);
  Stream stream(*model);
  for (int t = 0; t < 3; ++t) stream.step({5}, random_tokens({1}, g));
  CHECK(has(message_of([&] {
              stream.step({4, 5}, random_tokens({2}, g));
            }),
            "stream 5 is at the end"));
  CHECK(stream.ids() == std::vector<std::int64_t>{5});
  CHECK(stream.position(5) == 3);
}

TEST_CASE("an input of another shape is told in the stream's terms") {
  Generator g(15);
  const GRU layer({.input_size = 5, .hidden_size = 6}, g);
  Stream stream(layer);
  const auto refused = [&](const Tensor& x, const char* told) {
    const std::string message = message_of<ShapeError>([&] { stream.step(x); });
    CAPTURE(message);
    CHECK(has(message, "[Stream]"));
    CHECK(has(message, told));
    CHECK(!has(message, "trace"));
  };
  refused(Tensor::zeros({2, 7}), "does not take a step f32 [2, 7]");
  CHECK(stream.ids().empty());
  stream.step(Tensor::zeros({2, 5}));
  for (const std::int64_t batch : {1, 2, 3})  // as many as before, and not
    refused(Tensor::zeros({batch, 7}), "[");
  refused(Tensor::zeros({2, 5, 1}), "expected f32 [2, 5]");
  refused(Tensor::zeros({2, 5}, DType::f64), "expected f32 [2, 5] for 2 streams");
  CHECK(has(message_of([&] { stream.step(Tensor()); }), "[Stream]"));
  CHECK_NOTHROW(stream.step(Tensor::zeros({2, 5})));
}

TEST_CASE("a stream that was moved from is told so") {
  Generator g(16);
  const GRU layer({.input_size = 5, .hidden_size = 6}, g);
  Stream first(layer), twin(layer);
  const Tensor x = g.normal({2, 5}, 0, 1);
  first.step(x);
  twin.step(x);
  Stream second = std::move(first);
  CHECK(same_bits(second.step(x), twin.step(x)));
  const std::function<void()> uses[] = {
      [&] { first.step(x); },    [&] { first.step({1, 2}, x); }, [&] { first.state(); },
      [&] { first.reset(); },    [&] { first.leave(0); },        [&] { first.ids(); },
      [&] { first.position(); }, [&] { first.state_bytes(); },   [&] { first.restore({}); }};
  for (const auto& use : uses) CHECK(has(message_of(use), "moved from"));
  first = Stream(layer);
  CHECK(first.step(x).shape() == Shape{2, 6});
  CHECK(has(message_of([] { Stream(StepForm{}); }), "without a function"));
}

TEST_CASE("a row times panels equals the plain product, whatever the sizes") {
  Generator g(12);
  for (const std::int64_t n : {1, 15, 16, 33, 64, 127, 128, 300})
    for (const std::int64_t k : {1, 3, 16, 65})
      for (const bool transposed : {false, true})
        for (const bool accumulate : {false, true}) {
          CAPTURE(n, k, transposed, accumulate);
          const Gemm gemm{.transpose_b = transposed,
                          .accumulate = accumulate,
                          .bias = !accumulate,
                          .m = 1,
                          .n = n,
                          .k = k};
          const Tensor a = g.normal({k}, 0, 1), b = g.normal({n * k}, 0, 1),
                       bias = g.normal({n}, 0, 1);
          Tensor panels = Tensor::empty({detail::row_panel_size<float>(gemm)});
          Tensor c = g.normal({n}, 0, 1);
          std::vector<double> expected;
          for (std::int64_t j = 0; j < n; ++j) {
            double sum = static_cast<double>(accumulate ? c.ptr<float>()[j] : bias.ptr<float>()[j]);
            for (std::int64_t i = 0; i < k; ++i)
              sum += static_cast<double>(a.ptr<float>()[i]) *
                     static_cast<double>(b.ptr<float>()[transposed ? j * k + i : i * n + j]);
            expected.push_back(sum);
          }
          detail::pack_row(gemm, b.ptr<float>(), panels.mutable_ptr<float>());
          Tensor back = c.clone();
          detail::gemm_row(gemm, a.ptr<float>(), panels.ptr<float>(), bias.ptr<float>(),
                           c.mutable_ptr<float>(), false);
          detail::gemm_row(gemm, a.ptr<float>(), panels.ptr<float>(), bias.ptr<float>(),
                           back.mutable_ptr<float>(), true);
          REQUIRE(same_bits(back, c));
          for (std::int64_t j = 0; j < n; ++j)
            REQUIRE(std::abs(static_cast<double>(c.ptr<float>()[j]) -
                             expected[static_cast<std::size_t>(j)]) < 2e-5);
        }
}
