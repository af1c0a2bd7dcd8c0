// Looking inside models whose insides are known.

#include <unroll/compare/inside.h>
#include <unroll/layers/recurrent.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>

#include <cmath>

#include "../catch.h"
#include "../tensors.h"
#include "../train/setup.h"

using namespace unroll;
using unroll::test::every_kind;
using unroll::test::small;

namespace {

Tensor tokens(std::int64_t steps, std::int64_t batch, std::int64_t symbols, std::uint64_t seed) {
  Generator g(seed);
  Tensor x = Tensor::empty({steps, batch}, DType::i64);
  for (std::int64_t& token : x.mutable_data<std::int64_t>()) token = g.below(symbols);
  return x;
}

Tensor sum_of_squares(const Tensor& y) { return sum(square(y)); }

// Rotations of pairs by different angles: orthogonal, with complex eigenvalues of length 1.
Tensor rotations(std::int64_t n) {
  Tensor q = Tensor::zeros({n, n}, DType::f64);
  double* at = q.mutable_ptr<double>();
  for (std::int64_t i = 0; i + 1 < n; i += 2) {
    const double angle = 0.3 + static_cast<double>(i);
    at[i * n + i] = at[(i + 1) * n + i + 1] = std::cos(angle);
    at[(i + 1) * n + i] = std::sin(angle);
    at[i * n + i + 1] = -std::sin(angle);
  }
  return q;
}

// A tanh RNN that stays at 0, where tanh is the identity: h' = W h with W = radius rotations.
std::unique_ptr<SequenceModel> linear_rnn(double radius, Generator& g) {
  ModelConfig c = small(ModelKind::rnn);
  c.layers = 1;
  auto model = make_model(c, g);
  for (auto& [name, parameter] : model->named_parameters()) {
    if (name == "rnn.weight_hh_l0") {
      parameter.set_value(affine(rotations(16), radius, 0).to(DType::f32));
    } else if (name != "head.weight") {
      parameter.set_value(Tensor::zeros(parameter.shape()));
    }
  }
  return model;
}

}  // namespace

TEST_CASE("gates rebuild the step that they are of") {
  Generator g(1);
  const Tensor x = normal({3, 5}, 1, DType::f32);
  for (const bool layer_norm : {false, true}) {
    const LSTMCell cell({.input_size = 5, .hidden_size = 7, .layer_norm = layer_norm}, g);
    const State state{normal({3, 7}, 2, DType::f32), normal({3, 7}, 3, DType::f32)};
    const auto gates = cell.gates(x, state);
    REQUIRE(gates.size() == 4);
    CHECK(gates[1].keeps);
    const Tensor c = gates[1].value * state[1] + gates[0].value * gates[2].value;
    const Output step = cell(x, state);
    CHECK(difference(c, step.state[1]) < 1e-5);
    if (!layer_norm) CHECK(difference(gates[3].value * tanh(c), step.output) < 1e-5);
  }
  for (const bool before : {false, true}) {
    const GRUCell cell({.input_size = 5, .hidden_size = 7, .reset_before = before}, g);
    const Tensor h = normal({3, 7}, 2, DType::f32);
    const auto gates = cell.gates(x, {h});
    REQUIRE(gates.size() == 3);
    CHECK(gates[1].keeps);
    const Tensor z = gates[1].value;
    CHECK(difference((1.0 - z) * gates[2].value + z * h, cell(x, {h}).output) < 1e-5);
  }
}

TEST_CASE("a forget gate of one value has its memory horizon") {
  Generator g(2);
  const ModelConfig c = small(ModelKind::lstm);
  const auto model = make_model(c, g);
  const double bias = 3;
  for (auto& [name, parameter] : model->named_parameters()) {
    if (!name.starts_with("rnn.")) continue;
    parameter.set_value(Tensor::zeros(parameter.shape()));
    if (!name.starts_with("rnn.bias_ih")) continue;
    float* values = parameter.mutable_value().mutable_ptr<float>();
    std::fill(values + c.hidden, values + 2 * c.hidden, static_cast<float>(bias));
  }
  const auto layers = gates_along(*model, tokens(9, 2, 8, 3));
  REQUIRE(layers.size() == 2);
  const double forget = 1 / (1 + std::exp(-bias));
  for (const auto& gates : layers) {
    REQUIRE(gates.size() == 4);
    CHECK(gates[1].name == "f");
    CHECK(gates[1].values.shape() == Shape{9, 2, c.hidden});
    for (const double horizon : memory_horizon(gates[1].values))
      CHECK(horizon == Approx(-1 / std::log(forget)).epsilon(1e-4));
    // sigmoid(3) = 0.95 is in the last of ten parts, sigmoid(0) in the sixth.
    CHECK(histogram(gates[1].values, 0, 1, 10)[9] == Approx(1));
    CHECK(histogram(gates[0].values, 0, 1, 10)[5] == Approx(1));
  }
  // What is left after two steps of .9 and .4 is .36: the geometric mean, not that of horizons.
  const Tensor uneven = Tensor::from({0.9, 0.4}, {2, 1, 1});
  CHECK(memory_horizon(uneven)[0] == Approx(-2 / std::log(0.36)));
  CHECK(std::isinf(memory_horizon(Tensor::full({2, 1, 1}, 1))[0]));
  CHECK(memory_horizon(Tensor::zeros({2, 1, 1}))[0] == 0);
  const auto none = make_model(small(ModelKind::rnn), g);
  CHECK(has(message_of([&] { gates_along(*none, tokens(3, 1, 8, 1)); }), "has no gates"));
}

TEST_CASE("a linear RNN has the radius, growth and gradient of its matrix") {
  for (const double radius : {0.7, 1.0, 1.2}) {
    CAPTURE(radius);
    Generator g(4);
    const auto model = linear_rnn(radius, g);
    const Tensor x = tokens(20, 1, 8, 5);
    for (const std::int64_t exact : {1024, 0}) {
      const auto layers = step_jacobians(*model, x, g, {.count = 4, .exact = exact});
      REQUIRE(layers.size() == 1);
      REQUIRE(layers[0].size() == 4);
      CHECK(layers[0][0].step == 4);
      CHECK(layers[0][3].step == 19);
      for (const StepJacobian& one : layers[0]) {
        CHECK(one.radius == Approx(radius).epsilon(1e-3));
        CHECK((exact == 0 ? std::isnan(one.norm) : one.norm == Approx(radius).epsilon(1e-3)));
      }
    }
    const StateGrowth growth = state_growth(*model, x, g);
    REQUIRE(growth.log_norms.size() == 19);
    CHECK(growth.log_norms[9] == Approx(10 * std::log(radius)).margin(1e-4));
    CHECK(growth.exponent == Approx(std::log(radius)).margin(1e-4));
    const auto flow =
        layer_gradient_flow(*model, x, [](const Tensor& y) { return sum(select(y, 0, 19)); });
    REQUIRE(flow.norms.size() == 2);
    for (std::size_t k = 0; k < 20; ++k)
      CHECK(flow.norms[1][19 - k] ==
            Approx(flow.norms[1][19] * std::pow(radius, static_cast<double>(k))).epsilon(1e-3));
  }
}

TEST_CASE("spectral radius and norm of matrices whose eigenvalues are known") {
  // Eigenvalues 2 and -0.5; the norm is larger.
  const Tensor triangular = Tensor::from({2.0, 5.0, 0.0, -0.5}, {2, 2});
  CHECK(spectral_radius(triangular) == Approx(2).epsilon(1e-3));
  const double squares = 4 + 25 + 0.25;  // s1^2 + s2^2, and s1 s2 = 1
  CHECK(spectral_norm(triangular) ==
        Approx(std::sqrt((squares + std::sqrt(squares * squares - 4)) / 2)).epsilon(1e-6));
  // One block of Jordan's, and a nilpotent matrix.
  CHECK(spectral_radius(Tensor::from({0.9, 1.0, 0.0, 0.9}, {2, 2})) == Approx(0.9).epsilon(1e-3));
  CHECK(spectral_radius(Tensor::from({0.0, 1.0, 0.0, 0.0}, {2, 2})) == 0);
  CHECK_THROWS_AS(spectral_radius(Tensor::zeros({2, 3})), ShapeError);
}

TEST_CASE("parts put together are the model") {
  for (const ModelKind kind : every_kind) {
    CAPTURE(to_string(kind));
    Generator g(6);
    ModelConfig c = small(kind);
    if (kind == ModelKind::lstm) c.regularization = {.zoneout_h = 0.2, .zoneout_c = 0.3};
    const auto model = make_model(c, g);
    model->eval();
    const Tensor x = tokens(6, 2, 8, 7);
    const ModelParts parts = model->parts();
    Tensor h = parts.enter(model->embed(x));
    for (const ModelLayer& layer : parts.layers) {
      if (layer.run) {
        h = layer.run(h);
        continue;
      }
      State state = layer.cell->initial_state(2, DType::f32);
      std::vector<Tensor> outputs;
      for (const Tensor& step : unbind(h)) {
        Output next = layer.step(step, state);
        outputs.push_back(next.output);
        state = next.state;
      }
      h = stack(outputs);
    }
    CHECK(difference(parts.head(h), (*model)(x).output) < 1e-4);
  }
}

TEST_CASE("gradient flow by layer and step agrees with central differences") {
  for (const ModelKind kind : every_kind) {
    CAPTURE(to_string(kind));
    Generator g(8);
    const auto model = make_model(small(kind), g);
    model->to(DType::f64);
    const Tensor x = tokens(5, 2, 8, 9);
    const LayerFlow flow = layer_gradient_flow(*model, x, sum_of_squares);
    REQUIRE(flow.norms.size() == 3);
    // What enters the first layer, by moving it.
    model->eval();
    const ModelParts parts = model->parts();
    const Tensor entered = parts.enter(model->embed(x));
    const auto loss_of = [&](const Tensor& below) {
      Tensor h = below;
      for (const ModelLayer& layer : parts.layers) {
        if (layer.run) {
          h = layer.run(h);
          continue;
        }
        State state = layer.cell->initial_state(2, DType::f64);
        std::vector<Tensor> outputs;
        for (const Tensor& step : unbind(h)) {
          Output next = layer.step(step, state);
          outputs.push_back(next.output);
          state = next.state;
        }
        h = stack(outputs);
      }
      return sum_of_squares(parts.head(h)).item();
    };
    const std::int64_t each = entered.numel() / 5;
    for (const std::int64_t t : {0, 3}) {
      double squares = 0;
      for (std::int64_t i = t * each; i < (t + 1) * each; ++i) {
        const double by = 1e-5;
        Tensor up = entered.clone(), down = entered.clone();
        up.mutable_ptr<double>()[i] += by;
        down.mutable_ptr<double>()[i] -= by;
        const double slope = (loss_of(up) - loss_of(down)) / (2 * by);
        squares += slope * slope;
      }
      CHECK(flow.norms[0][static_cast<std::size_t>(t)] == Approx(std::sqrt(squares)).epsilon(1e-4));
    }
  }
}

TEST_CASE("attention maps are causal and their rows add up to 1") {
  Generator g(10);
  const auto model = make_model(small(ModelKind::transformer), g);
  const auto maps = attention_maps(*model, tokens(6, 3, 8, 11));
  REQUIRE(maps.size() == 2);
  for (const Tensor& map : maps) {
    REQUIRE(map.shape() == Shape{3, 2, 6, 6});
    const auto weights = map.data<float>();
    for (std::size_t row = 0; row < weights.size() / 6; ++row) {
      double total = 0;
      for (std::size_t k = 0; k < 6; ++k) {
        if (k > row % 6) CHECK(weights[row * 6 + k] == 0);
        total += static_cast<double>(weights[row * 6 + k]);
      }
      CHECK(total == Approx(1).epsilon(1e-5));
    }
  }
  const auto lstm = make_model(small(ModelKind::lstm), g);
  CHECK(has(message_of([&] { attention_maps(*lstm, tokens(3, 1, 8, 1)); }), "no attention"));
  CHECK(has(message_of([&] { state_growth(*model, tokens(9, 1, 8, 1), g); }), "grows"));
}

TEST_CASE("effective context ends where the source's memory does") {
  // x_t = x_(t-2), but in one of ten cases the other: the latest symbol alone says nothing.
  Generator g(12);
  std::vector<std::int64_t> source{0, 1};
  for (std::int64_t i = 2; i < 6000; ++i)
    source.push_back(g.below(10) == 0 ? 1 - source[static_cast<std::size_t>(i - 2)]
                                      : source[static_cast<std::size_t>(i - 2)]);
  ModelConfig c = small(ModelKind::gru);
  c.vocabulary = 2;
  c.layers = 1;
  const auto model = make_model(c, g);
  AdamW optimizer(decay_groups(model->named_parameters()), {.learning_rate = 2e-2});
  const RandomWindows windows(source, 16, 12);
  const TrainTask task{.next = [&](Generator& r) { return windows.next(r); },
                       .loss = test::token_loss};
  train(*model, optimizer, task, g, {.steps = 250, .label = ""});
  const RandomWindows wide(source, 1500, 8);
  const Batch batch = wide.next(g);
  const std::vector<std::int64_t> contexts{1, 2, 4, 8};
  const auto points = effective_context(*model, batch.x, contexts, [&](const Tensor& last) {
    return cross_entropy(last, batch.y.row(7));
  });
  const double rate = -0.9 * std::log(0.9) - 0.1 * std::log(0.1);
  CHECK(points[0].loss == Approx(std::log(2)).margin(0.06));
  for (std::size_t i = 1; i < points.size(); ++i)
    CHECK(points[i].loss == Approx(rate).margin(0.06));
  CHECK_THROWS_AS(effective_context(*model, batch.x, std::vector<std::int64_t>{9},
                                    [](const Tensor& y) { return sum(y); }),
                  Error);
}
