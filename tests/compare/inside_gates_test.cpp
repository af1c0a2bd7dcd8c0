// What the minimal units, Mamba and RWKV keep of their states.

#include <unroll/compare/inside.h>
#include <unroll/layers/minimal.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>

#include <cmath>

#include "../catch.h"
#include "../tensors.h"
#include "../train/setup.h"

using namespace unroll;
using unroll::test::small;

namespace {

constexpr ModelKind kinds[] = {ModelKind::mingru, ModelKind::minlstm, ModelKind::mamba,
                               ModelKind::rwkv};

Tensor some_tokens(std::int64_t steps, std::int64_t batch) {
  Generator g(3);
  Tensor x = Tensor::empty({steps, batch}, DType::i64);
  for (std::int64_t& token : x.mutable_data<std::int64_t>()) token = g.below(8);
  return x;
}

void fill(Parameter& parameter, double value) {
  parameter.set_value(Tensor::full(parameter.shape(), value));
}

}  // namespace

TEST_CASE("minimal units are their gates' mean of the old state and the candidate") {
  Generator g(1);
  const Tensor x = normal({3, 5}, 1, DType::f32), h = normal({3, 7}, 2, DType::f32);
  for (const bool positive : {false, true}) {
    const MinimalCellOptions options{.input_size = 5, .hidden_size = 7, .positive = positive};
    const auto rebuilds = [&](const ParallelCell& cell) {
      const std::vector<Gate> gates = cell.gates(x, {h});
      REQUIRE(gates.size() == 2);
      CHECK(gates[0].keeps);
      CHECK(!gates[1].keeps);
      const Tensor& keep = gates[0].value;
      CHECK(difference(keep * h + (1.0 - keep) * gates[1].value, cell(x, {h}).output) < 1e-5);
    };
    rebuilds(MinGRU(options, g));
    rebuilds(MinLSTM(options, g));
  }
}

TEST_CASE("what a block keeps is how its next state depends on the one before") {
  for (const ModelKind kind : kinds) {
    CAPTURE(to_string(kind));
    Generator g(2);
    const auto model = make_model(small(kind), g);
    // Initial LoRAs of RWKV are 0, so that its decay would not depend on the input.
    for (auto& [name, parameter] : model->named_parameters())
      if (name.find("_w1") != std::string::npos)
        parameter.set_value(g.normal(parameter.shape(), 0, 0.3));
    model->to(DType::f64);
    const ModelParts parts = model->parts();
    const RecurrentCell& block = *parts.layers[0].cell;
    const Tensor x = normal({3, 16}, 4);
    State one = block.initial_state(3, DType::f64);
    for (Tensor& part : one) part = normal(part.shape(), 5);
    State other = one;
    other[1] = normal(one[1].shape(), 6);
    const std::vector<Gate> gates = block.gates(x, one);
    REQUIRE(!gates.empty());
    REQUIRE(gates[0].keeps);
    // Of a channel of the keys in RWKV: a row of its matrix.
    const Shape shape = kind == ModelKind::rwkv ? Shape{3, 2, 8, 1} : one[1].shape();
    const Tensor keep = reshape(gates[0].value, shape);
    CHECK(difference(block(x, one).state[1] - block(x, other).state[1],
                     keep * (one[1] - other[1])) < 1e-12);
  }
}

TEST_CASE("gates of one value have their memory horizon") {
  const double bias = 2;
  const auto sigmoid_of = [](double v) { return 1 / (1 + std::exp(-v)); };
  for (const ModelKind kind : kinds) {
    CAPTURE(to_string(kind));
    Generator g(7);
    const auto model = make_model(small(kind), g);
    for (auto& [name, parameter] : model->named_parameters()) {
      if (name.ends_with("rnn.weight_ih") || name.ends_with("dt_proj.weight") ||
          name.ends_with("time_decay_w2"))
        fill(parameter, 0);
      if (name.ends_with("dt_proj.bias") || name.ends_with("A_log")) fill(parameter, bias);
      if (name.ends_with("time_decay")) fill(parameter, -bias);
      if (!name.ends_with("rnn.bias_ih")) continue;
      // z of -2; f of 2 beside an i of 0.
      fill(parameter, 0);
      float* values = parameter.mutable_value().mutable_ptr<float>();
      std::fill(values, values + 32, static_cast<float>(kind == ModelKind::mingru ? -bias : bias));
    }
    double expected = 0;
    if (kind == ModelKind::mingru) expected = -1 / std::log(sigmoid_of(bias));
    if (kind == ModelKind::minlstm)
      expected = -1 / std::log(sigmoid_of(bias) / (sigmoid_of(bias) + 0.5));
    // exp(-softplus(2) e^2), and exp(-exp(-2)).
    if (kind == ModelKind::mamba) expected = 1 / (std::log1p(std::exp(bias)) * std::exp(bias));
    if (kind == ModelKind::rwkv) expected = std::exp(bias);
    const auto layers = gates_along(*model, some_tokens(6, 2));
    REQUIRE(layers.size() == 2);
    for (const auto& gates : layers) {
      CHECK(gates[0].values.size(2) == (kind == ModelKind::mamba  ? 16 * 32
                                        : kind == ModelKind::rwkv ? 16
                                                                  : 32));
      for (const double horizon : memory_horizon(gates[0].values))
        CHECK(horizon == Approx(expected).epsilon(1e-4));
    }
  }
}
