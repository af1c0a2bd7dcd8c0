// Recurrent layers: gradients, the plain loop as a twin, padding, carried state.

#include <unroll/graph/gradient_check.h>
#include <unroll/graph/threads.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/sequential.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>

#include "../catch.h"
#include "sequences.h"

using namespace unroll;
using namespace sequences;

namespace {

struct Kind {
  const char* name;
  std::function<std::unique_ptr<RecurrentLayer>(int layers, bool both, bool batch_first)> make;
};

template <class Layer, class Options>
Kind kind(const char* name, Options options) {
  return {name, [options](int layers, bool both, bool batch_first) mutable {
            options.input_size = inputs;
            options.hidden_size = hidden;
            options.num_layers = layers;
            options.bidirectional = both;
            options.batch_first = batch_first;
            Generator generator(5);
            auto layer = std::make_unique<Layer>(options, generator);
            return std::unique_ptr<RecurrentLayer>(std::move(layer));
          }};
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      kind<RNN>("RNN", RNNOptions{}),
      kind<LSTM>("LSTM", LSTMOptions{}),
      kind<LSTM>("LSTM with projection", LSTMOptions{.proj_size = 2}),
      kind<LSTM>("LSTM with layer norm", LSTMOptions{.layer_norm = true}),
      kind<GRU>("GRU", GRUOptions{}),
      kind<GRU>("GRU reset before", GRUOptions{.reset_before = true}),
  };
  return all;
}

// A state like the layer's own, not zero.
State some_state(const RecurrentLayer& layer, DType dtype) {
  State state = layer.initial_state(batch, dtype);
  std::uint64_t seed = 40;
  for (Tensor& one : state) one = normal(one.shape(), seed++, dtype);
  return state;
}

}  // namespace

TEST_CASE("gradients of three bidirectional layers with lengths and state agree with differences") {
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(3, true, false);
    layer->to(DType::f64);
    // Parameters as inputs: all of the first and the last layer, a few of the middle.
    std::vector<Tensor> in{normal({steps, batch, inputs}, 1)};
    for (const Tensor& state : some_state(*layer, DType::f64)) in.push_back(state);
    const std::size_t states = in.size() - 1;
    std::vector<std::size_t> wrt;
    for (std::size_t i = 0; i < in.size(); ++i) wrt.push_back(i);
    const auto run = [&](std::span<const Tensor> args) {
      const State state(args.begin() + 1, args.begin() + 1 + static_cast<std::ptrdiff_t>(states));
      const Output out = (*layer)(args[0], {.state = state, .lengths = unsorted()});
      std::vector<Tensor> all = out.state;
      all.push_back(out.output);
      return all;
    };
    CHECK(gradient_error(run, in, wrt) < 1e-8);
  }
}

TEST_CASE("gradients of a layer's parameters agree with differences") {
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(3, true, false);
    layer->to(DType::f64);
    const Tensor x = normal({steps, batch, inputs}, 1);
    const Tensor seed = normal({steps, batch, layer->output_size()}, 2);
    const auto loss = [&] {
      return sum(
          (*layer)(x, {.state = some_state(*layer, DType::f64), .lengths = unsorted()}).output *
          seed);
    };
    Tape tape;
    tape.backward(loss());
    tape.stop();
    for (const auto& [name, handle] : layer->named_parameters()) {
      CAPTURE(name);
      Parameter parameter = handle;  // a lambda captures no structured binding before clang 16
      const std::int64_t stride = std::max<std::int64_t>(1, parameter.numel() / 5);
      for (std::int64_t i = 0; i < parameter.numel(); i += stride) {
        const Tensor before = parameter.value().clone();
        const auto at = [&](double shift) {
          Tensor moved = before.clone();
          moved.mutable_data<double>()[i] += shift;
          parameter.set_value(moved);
          return loss().item();
        };
        const double h = 1e-4;
        const double rough = (at(2 * h) - at(-2 * h)) / (4 * h);
        const double numeric = (4 * (at(h) - at(-h)) / (2 * h) - rough) / 3;
        parameter.set_value(before);
        CHECK(parameter.grad().data<double>()[i] == Approx(numeric).epsilon(1e-7).margin(1e-8));
      }
    }
  }
}

TEST_CASE("scan and the plain loop agree for every layer, values and gradients") {
  for (const Kind& one : kinds())
    for (const bool both : {false, true})
      for (const bool with_lengths : {false, true})
        for (const DType dtype : {DType::f64, DType::f32}) {
          CAPTURE(one.name, both, with_lengths, to_string(dtype));
          const auto layer = one.make(2, both, false);
          layer->to(dtype);
          std::vector<Tensor> in{normal({steps, batch, inputs}, 1, dtype)};
          for (const Tensor& state : some_state(*layer, dtype)) in.push_back(state);
          const auto run = [&](bool unrolled) {
            return differentiate(
                [&](std::span<const Tensor> args) {
                  return (*layer)(args[0], {.state = State(args.begin() + 1, args.end()),
                                            .lengths = with_lengths ? unsorted() : Tensor(),
                                            .unrolled = unrolled});
                },
                in, layer->parameters());
          };
          CHECK(difference(run(false), run(true)) < (dtype == DType::f64 ? 1e-12 : 3e-5));
        }
}

TEST_CASE("a padded batch equals each sequence run alone") {
  const Tensor lengths = unsorted();
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(2, true, false);
    layer->to(DType::f64);
    const Tensor x = normal({steps, batch, inputs}, 1);
    const Output all = (*layer)(x, {.lengths = lengths});
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t length = lengths.data<std::int64_t>()[b];
      const Tensor alone = slice(slice(x, 1, b, b + 1), 0, 0, length);
      const Output single = (*layer)(alone);
      CHECK(difference(slice(slice(all.output, 1, b, b + 1), 0, 0, length), single.output) < 1e-12);
      for (std::size_t k = 0; k < single.state.size(); ++k)
        CHECK(difference(slice(all.state[k], 1, b, b + 1), single.state[k]) < 1e-12);
      if (length < steps)
        CHECK(max(abs(slice(slice(all.output, 1, b, b + 1), 0, length))).item() == 0);
    }
  }
}

TEST_CASE("what stands in the padding does not matter, not even NaN") {
  const Tensor lengths = unsorted();
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(2, true, false);
    Tensor x = normal({steps, batch, inputs}, 1, DType::f32);
    const auto run = [&] {
      Tape tape;
      const Tensor watched = tape.watch(x);
      const Output out = (*layer)(watched, {.lengths = lengths});
      std::vector<Tensor> result{out.output, out.state[0]};
      const Tensor loss = sum(square(out.output));
      for (Parameter p : layer->parameters()) p.zero_grad();
      tape.backward(loss);
      for (const Parameter& p : layer->parameters()) result.push_back(p.grad());
      return result;
    };
    const std::vector<Tensor> clean = run();
    for (std::int64_t t = 0; t < steps; ++t)
      for (std::int64_t b = 0; b < batch; ++b)
        if (t >= lengths.data<std::int64_t>()[b])
          for (std::int64_t i = 0; i < inputs; ++i)
            x.mutable_data<float>()[static_cast<std::size_t>((t * batch + b) * inputs + i)] = 1e6f;
    const std::vector<Tensor> dirty = run();
    for (std::size_t i = 0; i < clean.size(); ++i) CHECK(difference(clean[i], dirty[i]) < 1e-5);
  }
}

TEST_CASE("a permuted batch permutes the results") {
  const std::int64_t order[] = {2, 0, 1};
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(2, true, false);
    layer->to(DType::f64);
    const Tensor x = normal({steps, batch, inputs}, 1);
    const State state = some_state(*layer, DType::f64);
    const auto permuted = [&](const Tensor& tensor, int axis) {
      std::vector<Tensor> parts;
      for (std::int64_t b : order) parts.push_back(slice(tensor, axis, b, b + 1));
      return concat(parts, axis);
    };
    State moved;
    for (const Tensor& part : state) moved.push_back(permuted(part, 1));
    const Output a = (*layer)(x, {.state = state, .lengths = unsorted()});
    const Output b =
        (*layer)(permuted(x, 1),
                 {.state = moved, .lengths = Tensor::from<std::int64_t>({1, 2, 4}, {batch})});
    CHECK(difference(permuted(a.output, 1), b.output) < 1e-13);
    for (std::size_t k = 0; k < state.size(); ++k)
      CHECK(difference(permuted(a.state[k], 1), b.state[k]) < 1e-13);
  }
}

TEST_CASE("batch_first turns the first two axes of input and output, not of the state") {
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto time_major = one.make(2, true, false), batch_major = one.make(2, true, true);
    const Tensor x = normal({steps, batch, inputs}, 1, DType::f32);
    const State state = some_state(*time_major, DType::f32);
    const Output a = (*time_major)(x, {.state = state, .lengths = unsorted()});
    const Output b = (*batch_major)(transpose(x, 0, 1), {.state = state, .lengths = unsorted()});
    CHECK(same_bits(transpose(a.output, 0, 1), b.output));
    for (std::size_t k = 0; k < state.size(); ++k) CHECK(same_bits(a.state[k], b.state[k]));
  }
}

TEST_CASE("no initial state is a state of zeros") {
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(2, true, false);
    const Tensor x = normal({steps, batch, inputs}, 1, DType::f32);
    const State zero = layer->initial_state(batch);
    CHECK(same_bits((*layer)(x).output, (*layer)(x, zero).output));
    const Output other = (*layer)(x, some_state(*layer, DType::f32));
    CHECK(difference((*layer)(x).output, other.output) > 0.01);
  }
}

TEST_CASE("eight steps equal twice four with the state carried") {
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(2, false, false);
    layer->to(DType::f64);
    const Tensor x = normal({8, batch, inputs}, 1);
    const Output whole = (*layer)(x);
    const Output first = (*layer)(slice(x, 0, 0, 4));
    const Output second = (*layer)(slice(x, 0, 4), first.state);
    CHECK(difference(concat({first.output, second.output}, 0), whole.output) < 1e-13);
    for (std::size_t k = 0; k < whole.state.size(); ++k)
      CHECK(difference(second.state[k], whole.state[k]) < 1e-13);
  }
}

TEST_CASE("back-propagation truncated beyond the sequence's length is the full one") {
  const auto layer = kinds()[1].make(1, false, false);
  layer->to(DType::f64);
  const Tensor x = normal({8, batch, inputs}, 1);
  // Chunks of k steps on one tape; the state is cut after each.
  const auto grads = [&](std::int64_t k) {
    Tape tape;
    State state;
    Tensor loss;
    for (std::int64_t t = 0; t < 8; t += k) {
      const Output out = (*layer)(slice(x, 0, t, std::min<std::int64_t>(8, t + k)), state);
      const Tensor part = sum(square(out.output));
      loss = loss.defined() ? loss + part : part;
      state = out.state;
      for (Tensor& one : state) one = one.detach();
    }
    layer->zero_grad();
    tape.backward(loss);
    std::vector<Tensor> result;
    for (const Parameter& p : layer->parameters()) result.push_back(p.grad().clone());
    return result;
  };
  const std::vector<Tensor> full = grads(8), longer = grads(100), cut = grads(2);
  for (std::size_t i = 0; i < full.size(); ++i) {
    CHECK(same_bits(full[i], longer[i]));
    CHECK(difference(full[i], cut[i]) > 1e-4);
  }
}

TEST_CASE("a layer gives the same bits on one thread and two") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    Generator g(3);
    LSTM layer({.input_size = 48, .hidden_size = 80, .num_layers = 2, .bidirectional = true}, g);
    layer.to(dtype);
    const Tensor x = normal({20, 24, 48}, 1, dtype);
    const auto run = [&](int count) {
      set_threads(count);
      Result result = differentiate([&](std::span<const Tensor> in) { return layer(in[0]); },
                                    std::span(&x, 1), layer.parameters());
      set_threads(1);
      return result;
    };
    const Result a = run(1), b = run(2);
    for (std::size_t i = 0; i < a.values.size(); ++i) CHECK(same_bits(a.values[i], b.values[i]));
    for (std::size_t i = 0; i < a.grads.size(); ++i) CHECK(same_bits(a.grads[i], b.grads[i]));
  }
}

TEST_CASE("layers say what does not fit") {
  Generator g(1);
  LSTM layer({.input_size = inputs, .hidden_size = hidden, .num_layers = 2}, g);
  const Tensor x = normal({steps, batch, inputs}, 1, DType::f32);
  const Tensor h = Tensor::zeros({2, batch, hidden});
  CHECK_THROWS_AS(layer(x, State{h, Tensor::zeros({2, batch, hidden + 1})}), ShapeError);
  CHECK_THROWS_AS(layer(x, State{h, Tensor::zeros({1, batch, hidden})}), ShapeError);
  CHECK_THROWS_AS(layer(x, State{h}), Error);
  const std::string message = message_of<ShapeError>([&] { layer(Tensor::zeros({steps, 3, 9})); });
  CHECK(has(message, "[4, 3, 9]"));
  CHECK(has(message, "[T, B, 3]"));
  CHECK(has(message, "recurrent_test.cpp:"));
  CHECK_THROWS_AS(layer(Tensor::zeros({steps, inputs})), ShapeError);
  CHECK_THROWS_AS(LSTM({.input_size = 3, .hidden_size = 4, .num_layers = 0}, g), Error);
}

TEST_CASE("Sequential carries the state of its layers") {
  Generator g(2);
  Sequential model;
  model.append<Embedding>(11, inputs, g)
      .append<LSTM>(LSTMOptions{.input_size = inputs, .hidden_size = hidden}, g)
      .append([](const Tensor& x) { return tanh(x); })
      .append<GRU>(GRUOptions{.input_size = hidden, .hidden_size = 5, .num_layers = 2}, g)
      .append<Linear>(5, 11, g);
  Tensor tokens = Tensor::empty({8, 2}, DType::i64);
  for (std::int64_t& token : tokens.mutable_data<std::int64_t>()) token = g.below(11);
  const Output whole = model(tokens);
  CHECK(whole.output.shape() == Shape{8, 2, 11});
  REQUIRE(whole.state.size() == 3);
  CHECK(whole.state[2].shape() == Shape{2, 2, 5});
  const Output first = model(tokens.rows(0, 3));
  const Output second = model(tokens.rows(3, 8), first.state);
  CHECK(difference(concat({first.output, second.output}, 0), whole.output) < 1e-6);
  for (std::size_t k = 0; k < 3; ++k) CHECK(difference(second.state[k], whole.state[k]) < 1e-6);
  CHECK_THROWS_AS(model(tokens, State{first.state[0]}), Error);
  CHECK(model.named_parameters()[1].first == "1.weight_ih_l0");
}

TEST_CASE("dropout between layers acts in training alone, and not on the last layer") {
  Generator g(2);
  GRU layer({.input_size = inputs, .hidden_size = 30, .num_layers = 2, .dropout = 0.5}, g);
  GRU single({.input_size = inputs, .hidden_size = 30, .dropout = 0.5}, g);
  const Tensor x = normal({steps, batch, inputs}, 1, DType::f32);
  CHECK(difference(layer(x).output, layer(x).output) > 0);
  CHECK(same_bits(single(x).output, single(x).output));
  layer.eval();
  CHECK(same_bits(layer(x).output, layer(x).output));
}
