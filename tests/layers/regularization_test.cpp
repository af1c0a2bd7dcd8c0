// Regularisers of recurrent layers: each against its definition, scan against the plain loop,
// evaluation mode, the same bits from the same seed.

#include <unroll/graph/gradient_check.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/norm.h>
#include <unroll/layers/regularization.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>

#include "../catch.h"
#include "../io/files.h"
#include "../train/setup.h"
#include "sequences.h"

using namespace unroll;
using namespace sequences;

namespace {

constexpr double p = 0.4;

const Regularization everything{.input_dropout = 0.2,
                                .hidden_dropout = 0.3,
                                .update_dropout = 0.25,
                                .zoneout_h = 0.1,
                                .zoneout_c = 0.4,
                                .weight_drop = 0.5};

// As much of it as a layer can have.
Regularization for_gru(Regularization all) {
  all.zoneout_c = 0;
  return all;
}
Regularization for_rnn(Regularization all) {
  all.update_dropout = 0;
  return for_gru(all);
}

template <class Layer, class Options>
std::unique_ptr<RecurrentLayer> layer_of(Options options, const Regularization& regularization,
                                         DType dtype = DType::f64) {
  options.input_size = inputs;
  options.hidden_size = hidden;
  options.regularization = regularization;
  Generator generator(5);
  auto layer = std::make_unique<Layer>(options, generator);
  layer->to(dtype);
  return layer;
}

// All layers of the library with a regularisation, `layers` deep and in one or two directions.
std::vector<std::pair<const char*, std::unique_ptr<RecurrentLayer>>> layers_with(
    const Regularization& r, int layers, bool both, DType dtype = DType::f64) {
  std::vector<std::pair<const char*, std::unique_ptr<RecurrentLayer>>> all;
  all.emplace_back("RNN", layer_of<RNN>(RNNOptions{.num_layers = layers, .bidirectional = both},
                                        for_rnn(r), dtype));
  all.emplace_back(
      "LSTM", layer_of<LSTM>(LSTMOptions{.num_layers = layers, .bidirectional = both}, r, dtype));
  all.emplace_back(
      "LSTM with projection",
      layer_of<LSTM>(LSTMOptions{.num_layers = layers, .bidirectional = both, .proj_size = 2}, r,
                     dtype));
  all.emplace_back(
      "LSTM with layer norm",
      layer_of<LSTM>(LSTMOptions{.num_layers = layers, .bidirectional = both, .layer_norm = true},
                     r, dtype));
  all.emplace_back("GRU", layer_of<GRU>(GRUOptions{.num_layers = layers, .bidirectional = both},
                                        for_gru(r), dtype));
  all.emplace_back(
      "GRU reset before",
      layer_of<GRU>(GRUOptions{.num_layers = layers, .bidirectional = both, .reset_before = true},
                    for_gru(r), dtype));
  return all;
}

void rewind(RecurrentLayer& layer) {
  for (auto& [name, generator] : layer.generators()) generator->seek(0);
}

// The masks of a layer's next call, of which there is one kind: drawn by its generator's twin.
Tensor mask_of(RecurrentLayer& layer, const Shape& shape, double drop = p) {
  const auto generators = layer.generators();
  REQUIRE(generators.size() == 1);
  Generator twin(generators[0].second->seed());
  return dropout(Tensor::full(shape, 1, DType::f64), drop, twin);
}

Tensor xs_of(std::int64_t length = steps) { return normal({length, batch, inputs}, 1); }

struct Gates {
  Tensor i, f, g, o;
};

// Of an LSTM, from the products' sum.
Gates lstm_gates(const Tensor& sum) {
  const std::vector<Tensor> parts = split(sum, 4, -1);
  return {sigmoid(parts[0]), sigmoid(parts[1]), tanh(parts[2]), sigmoid(parts[3])};
}

// By hand: at each step `step` makes {h, c} of x and {h, c}.
Tensor by_hand(
    const Tensor& xs,
    const std::function<State(std::int64_t t, const Tensor& x, const State& before)>& step) {
  State state{Tensor::zeros({batch, hidden}, DType::f64),
              Tensor::zeros({batch, hidden}, DType::f64)};
  std::vector<Tensor> outputs;
  for (std::int64_t t = 0; t < xs.size(0); ++t) {
    state = step(t, select(xs, 0, t), state);
    outputs.push_back(state[0]);
  }
  return stack(outputs, 0);
}

const LSTMCell& lstm_cell(const RecurrentLayer& layer) {
  return dynamic_cast<const LSTMCell&>(layer.cell(0));
}
const GRUCell& gru_cell(const RecurrentLayer& layer) {
  return dynamic_cast<const GRUCell&>(layer.cell(0));
}

Tensor lstm_sum(const LSTMCell& cell, const Tensor& x, const Tensor& h) {
  return linear(x, cell.weight_ih, cell.bias_ih) + linear(h, cell.weight_hh, cell.bias_hh);
}

// h' of a GRU whose product takes `h_in` and whose n is multiplied.
Tensor gru_step(const GRUCell& cell, const Tensor& x, const Tensor& h, const Tensor& h_in,
                const Tensor& n_mask) {
  const auto from_x = split(linear(x, cell.weight_ih, cell.bias_ih), 3, -1);
  const auto from_h = split(linear(h_in, cell.weight_hh, cell.bias_hh), 3, -1);
  const Tensor r = sigmoid(from_x[0] + from_h[0]), z = sigmoid(from_x[1] + from_h[1]);
  const Tensor n = tanh(from_x[2] + r * from_h[2]) * n_mask;
  return (1 - z) * n + z * h;
}

}  // namespace

TEST_CASE("regularised layers: scan and the plain loop agree, values and gradients") {
  for (const Regularization& one :
       {Regularization{.input_dropout = p}, Regularization{.hidden_dropout = p},
        Regularization{.update_dropout = p}, Regularization{.zoneout_h = p},
        Regularization{.zoneout_c = p}, Regularization{.weight_drop = p}, everything})
    for (const DType dtype : {DType::f64, DType::f32})
      for (auto& [name, layer] : layers_with(one, 2, true, dtype)) {
        CAPTURE(name, to_string(dtype));
        for (const bool training : {true, false}) {
          layer->train(training);
          const std::vector<Tensor> in{normal({steps, batch, inputs}, 1, dtype)};
          const auto run = [&, &layer = layer](bool unrolled) {
            rewind(*layer);
            return differentiate(
                [&](std::span<const Tensor> args) {
                  return (*layer)(args[0], {.lengths = unsorted(), .unrolled = unrolled});
                },
                in, layer->parameters());
          };
          CHECK(difference(run(false), run(true)) < (dtype == DType::f64 ? 1e-12 : 1e-4));
        }
      }
}

TEST_CASE("regularised layers stay in scan's loop: the tape does not grow with the length") {
  for (auto& [name, layer] : layers_with(everything, 1, false)) {
    CAPTURE(name);
    const auto nodes = [&, &layer = layer](std::int64_t length) {
      Tape tape;
      (*layer)(xs_of(length));
      return tape.size();
    };
    CHECK(nodes(40) == nodes(4));
  }
}

TEST_CASE("gradients of regularised layers agree with differences, masks held") {
  for (auto& [name, layer] : layers_with(everything, 2, true)) {
    CAPTURE(name);
    const std::vector<Tensor> in{xs_of()};
    const std::size_t wrt[] = {0};
    const TensorFunction run = [&, &layer = layer](std::span<const Tensor> args) {
      rewind(*layer);
      return std::vector<Tensor>{(*layer)(args[0]).output};
    };
    CHECK(gradient_error(run, in, wrt) < 1e-8);

    const auto loss = [&, &layer = layer] {
      rewind(*layer);
      return sum(square((*layer)(in[0]).output));
    };
    Tape tape;
    tape.backward(loss());
    tape.stop();
    for (const auto& [parameter_name, handle] : layer->named_parameters()) {
      CAPTURE(parameter_name);
      Parameter parameter = handle;
      const Tensor before = parameter.value().clone();
      for (std::int64_t i = 0; i < parameter.numel(); i += 1 + parameter.numel() / 4) {
        const auto at = [&](double shift) {
          Tensor moved = before.clone();
          moved.mutable_data<double>()[static_cast<std::size_t>(i)] += shift;
          parameter.set_value(moved);
          return loss().item();
        };
        const double h = 1e-4, near = (at(h) - at(-h)) / (2 * h),
                     far = (at(2 * h) - at(-2 * h)) / (4 * h);
        parameter.set_value(before);
        CHECK(parameter.grad().data<double>()[static_cast<std::size_t>(i)] ==
              Approx((4 * near - far) / 3).epsilon(1e-6).margin(1e-8));
      }
    }
  }
}

TEST_CASE("input dropout multiplies the input by one mask for all steps") {
  const auto layer = layer_of<LSTM>(LSTMOptions{}, {.input_dropout = p});
  const auto plain = layer_of<LSTM>(LSTMOptions{}, {});
  const Tensor mask = mask_of(*layer, {1, batch, inputs});
  CHECK(difference((*layer)(xs_of()).output, (*plain)(xs_of() * mask).output) < 1e-14);
}

TEST_CASE("hidden dropout multiplies h in the product by one mask for all steps") {
  const auto lstm = layer_of<LSTM>(LSTMOptions{}, {.hidden_dropout = p});
  Tensor mask = mask_of(*lstm, {batch, hidden});
  const Tensor expected = by_hand(xs_of(), [&](std::int64_t, const Tensor& x, const State& before) {
    const Gates gate = lstm_gates(lstm_sum(lstm_cell(*lstm), x, before[0] * mask));
    const Tensor c = gate.f * before[1] + gate.i * gate.g;
    return State{gate.o * tanh(c), c};
  });
  CHECK(difference((*lstm)(xs_of()).output, expected) < 1e-14);

  // What a GRU keeps of h is not in the product.
  const auto gru = layer_of<GRU>(GRUOptions{}, {.hidden_dropout = p});
  mask = mask_of(*gru, {batch, hidden});
  const Tensor kept = by_hand(xs_of(), [&](std::int64_t, const Tensor& x, const State& before) {
    const Tensor h =
        gru_step(gru_cell(*gru), x, before[0], before[0] * mask, Tensor::full({}, 1, DType::f64));
    return State{h, h};
  });
  CHECK(difference((*gru)(xs_of()).output, kept) < 1e-14);
}

TEST_CASE("update dropout multiplies what the cell takes in, at each step by another mask") {
  const auto lstm = layer_of<LSTM>(LSTMOptions{}, {.update_dropout = p});
  Tensor masks = mask_of(*lstm, {steps, batch, hidden});
  CHECK(difference(masks.rows(0, 1), masks.rows(1, 2)) > 0);
  const Tensor expected =
      by_hand(xs_of(), [&](std::int64_t t, const Tensor& x, const State& before) {
        const Gates gate = lstm_gates(lstm_sum(lstm_cell(*lstm), x, before[0]));
        const Tensor c = gate.f * before[1] + gate.i * (gate.g * select(masks, 0, t));
        return State{gate.o * tanh(c), c};
      });
  CHECK(difference((*lstm)(xs_of()).output, expected) < 1e-14);

  const auto gru = layer_of<GRU>(GRUOptions{}, {.update_dropout = p});
  masks = mask_of(*gru, {steps, batch, hidden});
  const Tensor taken = by_hand(xs_of(), [&](std::int64_t t, const Tensor& x, const State& before) {
    const Tensor h = gru_step(gru_cell(*gru), x, before[0], before[0], select(masks, 0, t));
    return State{h, h};
  });
  CHECK(difference((*gru)(xs_of()).output, taken) < 1e-14);
}

TEST_CASE("zoneout keeps units of h and c, each for a step; h' is that of the c' before it") {
  const auto run = [](const Regularization& one, double zone_h, double zone_c) {
    const auto layer = layer_of<LSTM>(LSTMOptions{}, one);
    const Tensor masks = mask_of(*layer, {steps, batch, hidden});
    const Tensor expected =
        by_hand(xs_of(), [&](std::int64_t t, const Tensor& x, const State& before) {
          const Gates gate = lstm_gates(lstm_sum(lstm_cell(*layer), x, before[0]));
          const Tensor c = gate.f * before[1] + gate.i * gate.g, h = gate.o * tanh(c);
          const Tensor mask = select(masks, 0, t);
          return State{zone_h > 0 ? where(mask, h, before[0]) : h,
                       zone_c > 0 ? where(mask, c, before[1]) : c};
        });
    CHECK(difference((*layer)(xs_of()).output, expected) < 1e-14);
  };
  run({.zoneout_h = p}, p, 0);
  run({.zoneout_c = p}, 0, p);
}

TEST_CASE("zoneout: that share of the units stays, and evaluation is the mean of training") {
  // One step of an RNN, whose mean over masks is p h + (1 - p) h'.
  const auto layer = layer_of<RNN>(RNNOptions{}, {.zoneout_h = p});
  const Tensor h = normal({1, batch, hidden}, 9), x = xs_of(1);
  constexpr int runs = 4000;
  double stayed = 0;
  Tensor mean = Tensor::zeros({1, batch, hidden}, DType::f64);
  for (int i = 0; i < runs; ++i) {
    const Tensor next = (*layer)(x, State{h}).output;
    stayed += sum(equal(next, h)).item();
    mean = mean + next * (1.0 / runs);
  }
  const double units = batch * hidden * runs;
  CHECK(stayed / units == Approx(p).margin(4 * std::sqrt(p * (1 - p) / units)));
  layer->eval();
  const Tensor expected = (*layer)(x, State{h}).output;
  CHECK(difference(mean, expected) < 4 * 3 * std::sqrt(p * (1 - p) / runs));
  const auto plain = layer_of<RNN>(RNNOptions{}, {});
  CHECK(difference(expected, h * p + (*plain)(x, State{h}).output * (1 - p)) < 1e-14);
}

TEST_CASE("weight drop zeroes elements of the recurrent weight for the whole call") {
  for (const double drop : {p, 0.9}) {
    const auto layer = layer_of<LSTM>(LSTMOptions{}, {.weight_drop = drop});
    const auto plain = layer_of<LSTM>(LSTMOptions{}, {});
    const Tensor mask = mask_of(*layer, {4 * hidden, hidden}, drop);
    Parameter weight = plain->parameters()[1];
    REQUIRE(weight.shape() == mask.shape());
    weight.set_value(weight.value() * mask);
    CHECK(difference((*layer)(xs_of()).output, (*plain)(xs_of()).output) < 1e-14);
    // The weight itself stays, and gets no gradient where it was dropped.
    rewind(*layer);
    Tape tape;
    tape.backward(sum((*layer)(xs_of()).output));
    const Tensor grad = layer->parameters()[1].grad();
    CHECK(max(abs(grad * equal(mask, 0))).item() == 0);
    CHECK(max(abs(grad)).item() > 0);
  }
}

TEST_CASE("in evaluation only zoneout leaves something, and nothing is drawn") {
  Regularization dropped = everything;
  dropped.zoneout_h = dropped.zoneout_c = 0;
  auto with = layers_with(dropped, 2, true, DType::f32);
  auto without = layers_with({}, 2, true, DType::f32);
  const Tensor x = normal({steps, batch, inputs}, 1, DType::f32);
  for (std::size_t i = 0; i < with.size(); ++i) {
    CAPTURE(with[i].first);
    CHECK(!same_bits((*with[i].second)(x).output, (*without[i].second)(x).output));
    with[i].second->eval();
    const std::uint64_t before = with[i].second->generators()[0].second->position();
    CHECK(same_bits((*with[i].second)(x).output, (*without[i].second)(x).output));
    CHECK(with[i].second->generators()[0].second->position() == before);
  }
}

TEST_CASE("every call draws new masks, the same ones from the same place") {
  for (auto& [name, layer] : layers_with(everything, 1, false, DType::f32)) {
    CAPTURE(name);
    const Tensor x = normal({steps, batch, inputs}, 1, DType::f32);
    const Tensor first = (*layer)(x).output, second = (*layer)(x).output;
    CHECK(!same_bits(first, second));
    rewind(*layer);
    CHECK(same_bits((*layer)(x).output, first));
  }
}

TEST_CASE("wrong regularisations are refused") {
  for (const double bad : {-0.1, 1.0, double(NAN)}) {
    CHECK(has(message_of([&] { layer_of<LSTM>(LSTMOptions{}, {.zoneout_h = bad}); }), "zoneout_h"));
    CHECK_THROWS_AS(layer_of<GRU>(GRUOptions{}, {.weight_drop = bad}), Error);
    CHECK_THROWS_AS(VariationalDropout(bad), Error);
  }
  CHECK(has(message_of([] { layer_of<GRU>(GRUOptions{}, {.zoneout_c = p}); }), "zoneout_h"));
  CHECK(has(message_of([] { layer_of<RNN>(RNNOptions{}, {.update_dropout = p}); }), "gated"));

  struct Plain : RecurrentCell {
    Output operator()(const Tensor& x, const State&) const override { return {x, {x}}; }
    State initial_state(std::int64_t rows, DType dtype) const override {
      return {Tensor::zeros({rows, inputs}, dtype)};
    }
    std::int64_t output_size() const override { return inputs; }
  } cell;
  const Tensor x = normal({batch, inputs}, 2);
  const State state = cell.initial_state(batch, DType::f64);
  CHECK(difference(cell.masked(x, state, {}).output, x) == 0);
  CHECK(has(message_of([&] { cell.masked(x, state, {.hidden = x}); }), "masked()"));
}

TEST_CASE("variational dropout: one mask for all steps, another for each sequence") {
  Generator generator(3);
  VariationalDropout layer(0.5, generator);
  const Tensor ones = Tensor::full({6, 40, 5}, 1);
  const Tensor y = layer(ones);
  double dropped = 0;
  for (std::int64_t t = 0; t < 6; ++t) CHECK(same_bits(y.rows(t, t + 1), y.rows(0, 1)));
  const Tensor first = y.rows(0, 1);
  for (float value : first.data<float>()) {
    CHECK((value == 0 || value == 2));
    dropped += value == 0 ? 1 : 0;
  }
  CHECK(dropped / 200 == Approx(0.5).margin(4 * std::sqrt(0.25 / 200)));
  CHECK(!same_bits(layer(ones), y));
  layer.eval();
  CHECK(same_bits(layer(ones), ones));
  CHECK_THROWS_AS(VariationalDropout(0.5, generator)(normal({4}, 1)), ShapeError);
}

TEST_CASE("layer-norm LSTM follows its equations") {
  const auto layer = layer_of<LSTM>(LSTMOptions{.layer_norm = true}, {});
  for (Parameter& one : layer->parameters())  // gains of 1 would hide a gain in the wrong place
    one.set_value(one.value() + normal(one.shape(), 8) * 0.3);
  const LSTMCell& cell = lstm_cell(*layer);
  const auto normalized = [](const Tensor& x) {
    const Tensor centred = x - mean(x, {-1}, true);
    return centred / sqrt(mean(square(centred), {-1}, true) + 1e-5);
  };
  const Tensor expected = by_hand(xs_of(), [&](std::int64_t, const Tensor& x, const State& before) {
    const Tensor from_x = normalized(matmul(x, transpose(cell.weight_ih))) * cell.norm_ih;
    const Tensor from_h = normalized(matmul(before[0], transpose(cell.weight_hh))) * cell.norm_hh;
    const Gates gate = lstm_gates(from_x + from_h + cell.bias_ih + cell.bias_hh);
    const Tensor c = gate.f * before[1] + gate.i * gate.g;
    return State{gate.o * tanh(normalized(c) * cell.norm_c + cell.norm_c_bias), c};
  });
  CHECK(difference((*layer)(xs_of()).output, expected) < 1e-12);
  CHECK(layer->state_dict().contains("norm_c_bias_l0"));
  CHECK(!layer_of<LSTM>(LSTMOptions{}, {})->state_dict().contains("norm_c_l0"));
}

TEST_CASE("a regularised run resumed equals uninterrupted, bit for bit") {
  struct Model : SequenceModel {
    Linear input, head;
    LSTM rnn;
    explicit Model(Generator& g)
        : input(8, 6, g),
          head(10, 8, g),
          rnn({.input_size = 6,
               .hidden_size = 10,
               .num_layers = 2,
               .dropout = 0.1,
               .layer_norm = true,
               .regularization = everything},
              g) {
      add("input", input);
      add("rnn", rnn);
      add("head", head);
    }
    Tensor embed(const Tensor& x) override { return input(one_hot(x, 8)); }
    Output run(const Tensor& embedded, const State& state) override {
      Output result = rnn(embedded, state);
      result.output = head(result.output);
      return result;
    }
    bool constant_state() const override { return true; }
  };
  const TemporaryDirectory folder;
  const auto trained = [&](std::int64_t first, std::int64_t last) {
    StateDict state;
    for (const std::int64_t steps_to : {first, last}) {
      if (steps_to == 0) continue;
      test::Setup setup(test::small(ModelKind::lstm), true);
      setup.model = std::make_unique<Model>(setup.generator);
      setup.optimizer = std::make_unique<AdamW>(decay_groups(setup.model->named_parameters()),
                                                AdamWOptions{.learning_rate = 1e-2});
      setup.run({.steps = steps_to,
                 .checkpoint = (folder / std::to_string(10 * first + last)).string(),
                 .resume = true});
      state = setup.model->state_dict();
    }
    return state;
  };
  const StateDict whole = trained(0, 9);
  CHECK(same_bits(whole, trained(4, 9)));
  CHECK(!same_bits(whole, trained(0, 9 - 1)));
}
