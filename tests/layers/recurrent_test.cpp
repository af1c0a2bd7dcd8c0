// Recurrent layers and scan(): gradients, the plain loop as a twin, padding, carried state.

#include <unroll/graph/gradient_check.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/sequential.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

#include "../catch.h"

using namespace unroll;

namespace {

constexpr std::int64_t steps = 4, batch = 3, inputs = 3, hidden = 4;

Tensor normal(const Shape& shape, std::uint64_t seed, DType dtype = DType::f64) {
  return Generator(seed).normal(shape, 0, 1, DType::f64).to(dtype);
}
Tensor unsorted() { return Tensor::from<std::int64_t>({2, 4, 1}, {batch}); }

double difference(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined() ? 0 : INFINITY;
  if (a.shape() != b.shape()) return INFINITY;
  const Tensor x = a.to(DType::f64), y = b.to(DType::f64);
  double worst = 0;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double d = std::abs(x.data<double>()[i] - y.data<double>()[i]);
    if (!(d <= worst)) worst = d;
  }
  return worst;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes(), b.bytes(),
                     static_cast<std::size_t>(a.numel() * size_of(a.dtype()))) == 0;
}

template <class E, class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "no error";
}
bool has(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

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

struct Result {
  std::vector<Tensor> values, grads;
};

// A weighted sum of outputs and last states, differentiated by the watched inputs and parameters.
Result differentiate(const std::function<Output(std::span<const Tensor>)>& f,
                     std::span<const Tensor> in, const std::vector<Parameter>& parameters) {
  Tape tape;
  std::vector<Tensor> watched;
  for (const Tensor& one : in) watched.push_back(tape.watch(one));
  const Output out = f(watched);
  Result result{.values = out.state, .grads = {}};
  result.values.push_back(out.output);
  Tensor loss;
  std::uint64_t seed = 60;
  for (const Tensor& value : result.values) {
    const Tensor part = sum(value * normal(value.shape(), seed++, value.dtype()));
    loss = loss.defined() ? loss + part : part;
  }
  result.grads = tape.gradient(loss, watched);
  for (Parameter parameter : parameters) parameter.zero_grad();
  tape.backward(loss);
  for (const Parameter& parameter : parameters) result.grads.push_back(parameter.grad());
  return result;
}

double difference(const Result& a, const Result& b) {
  if (a.values.size() != b.values.size() || a.grads.size() != b.grads.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i)
    worst = std::max(worst, difference(a.values[i], b.values[i]));
  for (std::size_t i = 0; i < a.grads.size(); ++i)
    worst = std::max(worst, difference(a.grads[i], b.grads[i]));
  return worst;
}

// --- Cells as a user writes them.

struct TwoLinears : Module {
  Linear from_x, from_h;
  explicit TwoLinears(Generator& g) : from_x(inputs, hidden, g), from_h(hidden, hidden, g) {
    add("from_x", from_x);
    add("from_h", from_h);
  }
  Output operator()(const Tensor& x, const State& state) const {
    const Tensor h = tanh(from_x(x) + from_h(state[0]));
    return {h, {h}};
  }
};

struct UserCell {
  const char* name;
  std::size_t states;
  std::vector<Parameter> parameters;
  std::vector<Tensor> captured;  // watched by the test
  std::function<Output(const Tensor& x, const State& state, std::span<const Tensor> captured)> call;
};

std::vector<UserCell> user_cells(DType dtype) {
  std::vector<UserCell> cells;
  Generator g(9);
  auto linears = std::make_shared<TwoLinears>(g);
  linears->to(dtype);
  cells.push_back({"two Linears", 1, linears->parameters(), {}, [linears](auto& x, auto& s, auto) {
                     return (*linears)(x, s);
                   }});

  const Parameter joint(normal({hidden, inputs + hidden}, 11, dtype));
  cells.push_back({"concat", 1, {joint}, {}, [joint](auto& x, auto& s, auto) -> Output {
                     const Tensor h = tanh(linear(concat({x, s[0]}, 1), joint));
                     return {h, {h}};
                   }});

  const Parameter twice(normal({hidden, hidden}, 12, dtype));
  const Parameter in(normal({hidden, inputs}, 13, dtype));
  cells.push_back({"a parameter used twice", 1, {twice, in}, {},
                   [twice, in](auto& x, auto& s, auto) -> Output {
                     const Tensor once = tanh(linear(s[0], twice) + linear(x, in));
                     const Tensor h = sigmoid(linear(once, twice)) * 2.0 - 1.0;
                     return {h, {h}};
                   }});

  cells.push_back({"captured tensors", 1, {in},
                   {normal({hidden}, 14, dtype), normal({batch, hidden}, 15, dtype)},
                   [in](auto& x, auto& s, auto captured) -> Output {
                     const Tensor h = tanh(linear(x, in) * captured[0] + s[0] * captured[1]);
                     return {h * captured[0], {h}};
                   }});

  cells.push_back({"three states, one unchanged", 3, {in}, {},
                   [in](auto& x, auto& s, auto) -> Output {
                     const Tensor h = tanh(linear(x, in) + s[0] * s[2]);
                     const Tensor slow = s[1] * 0.9 + h * 0.1;
                     return {h - slow, {h, slow, s[2]}};
                   }});

  cells.push_back({"one value as output and both states", 2, {in}, {},
                   [in](auto& x, auto& s, auto) -> Output {
                     const Tensor h = tanh(linear(x, in) + s[0] - s[1]);
                     return {h, {h, h}};
                   }});

  cells.push_back({"states change places", 2, {in}, {}, [in](auto& x, auto& s, auto) -> Output {
                     return {s[0] + linear(x, in), {s[1], tanh(s[0])}};
                   }});

  cells.push_back({"an output without state", 1, {in}, {}, [in](auto& x, auto& s, auto) -> Output {
                     return {linear(x, in), {s[0]}};
                   }});

  cells.push_back({"an output that is the input", 1, {}, {}, [](auto& x, auto& s, auto) -> Output {
                     return {x, {s[0] + sum(x, {1}, true)}};
                   }});
  return cells;
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
      return sum((*layer)(x, {.state = some_state(*layer, DType::f64), .lengths = unsorted()})
                     .output *
                 seed);
    };
    Tape tape;
    tape.backward(loss());
    tape.stop();
    for (auto [name, parameter] : layer->named_parameters()) {
      CAPTURE(name);
      const std::int64_t stride = std::max<std::int64_t>(1, parameter.numel() / 5);
      for (std::int64_t i = 0; i < parameter.numel(); i += stride) {
        const Tensor before = parameter.value().clone();
        const auto at = [&](double shift) {
          Tensor moved = before.clone();
          moved.mutable_data<double>()[i] += shift;
          parameter.set_value(moved);
          return loss().item();
        };
        const double h = 1e-3;
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

TEST_CASE("scan and the plain loop agree for cells of a user") {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const UserCell& one : user_cells(dtype))
      for (const bool reverse : {false, true})
        for (const bool with_lengths : {false, true}) {
          CAPTURE(one.name, reverse, with_lengths, to_string(dtype));
          std::vector<Tensor> in{normal({steps, batch, inputs}, 1, dtype)};
          for (std::size_t k = 0; k < one.states; ++k)
            in.push_back(normal({batch, hidden}, 20 + k, dtype));
          in.insert(in.end(), one.captured.begin(), one.captured.end());
          const auto run = [&](bool unrolled) {
            return differentiate(
                [&](std::span<const Tensor> args) {
                  const auto captured = args.subspan(1 + one.states);
                  const State state(args.begin() + 1,
                                    args.begin() + 1 + static_cast<std::ptrdiff_t>(one.states));
                  return scan([&](const Tensor& x, const State& s) {
                                return one.call(x, s, captured);
                              },
                              args[0], state,
                              {.lengths = with_lengths ? unsorted() : Tensor(),
                               .reverse = reverse,
                               .unrolled = unrolled});
                },
                in, one.parameters);
          };
          CHECK(difference(run(false), run(true)) < (dtype == DType::f64 ? 1e-12 : 3e-5));
        }
}

TEST_CASE("scan and the plain loop agree over many steps, where only some gradients are wanted") {
  Generator g(1);
  LSTMCell cell({.input_size = 5, .hidden_size = 7}, g);
  cell.to(DType::f64);
  const Tensor xs = normal({37, 2, 5}, 1);
  const State zero = cell.initial_state(2, DType::f64);
  for (const bool watch_x : {false, true})
    for (const bool weights : {false, true}) {
      if (!watch_x && !weights) continue;
      for (Parameter p : cell.parameters()) p.set_trainable(weights);
      const auto run = [&](bool unrolled) {
        Tape tape;
        const Tensor x = watch_x ? tape.watch(xs) : xs;
        const Output out = scan([&](const Tensor& step, const State& s) { return cell(step, s); },
                                x, zero, {.unrolled = unrolled});
        const Tensor loss = sum(square(out.output));
        std::vector<Tensor> grads{out.output};
        if (watch_x) grads.push_back(tape.gradient(loss, {x})[0]);
        for (Parameter p : cell.parameters()) p.zero_grad();
        tape.backward(loss);
        for (const Parameter& p : cell.parameters()) grads.push_back(p.grad());
        return grads;
      };
      const std::vector<Tensor> a = run(false), b = run(true);
      REQUIRE(a.size() == b.size());
      for (std::size_t i = 0; i < a.size(); ++i) CHECK(difference(a[i], b[i]) < 1e-11);
      CHECK(a.back().defined() == weights);
    }
}

TEST_CASE("a padded batch equals each sequence run alone") {
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(2, true, false);
    layer->to(DType::f64);
    const Tensor x = normal({steps, batch, inputs}, 1);
    const Output all = (*layer)(x, {.lengths = unsorted()});
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t length = unsorted().data<std::int64_t>()[b];
      const Tensor alone = slice(slice(x, 1, b, b + 1), 0, 0, length);
      const Output single = (*layer)(alone);
      CHECK(difference(slice(slice(all.output, 1, b, b + 1), 0, 0, length), single.output) <
            1e-12);
      for (std::size_t k = 0; k < single.state.size(); ++k)
        CHECK(difference(slice(all.state[k], 1, b, b + 1), single.state[k]) < 1e-12);
      if (length < steps)
        CHECK(max(abs(slice(slice(all.output, 1, b, b + 1), 0, length))).item() == 0);
    }
  }
}

TEST_CASE("what stands in the padding does not matter, not even NaN") {
  for (const Kind& one : kinds()) {
    CAPTURE(one.name);
    const auto layer = one.make(2, true, false);
    Tensor x = normal({steps, batch, inputs}, 1, DType::f32);
    const auto run = [&] {
      Tape tape;
      const Tensor watched = tape.watch(x);
      const Output out = (*layer)(watched, {.lengths = unsorted()});
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
        if (t >= unsorted().data<std::int64_t>()[b])
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
    const Output b = (*layer)(permuted(x, 1),
                              {.state = moved,
                               .lengths = Tensor::from<std::int64_t>({1, 2, 4}, {batch})});
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
      const Result result = differentiate(
          [&](std::span<const Tensor> in) { return layer(in[0]); }, std::span(&x, 1),
          layer.parameters());
      set_threads(1);
      return result;
    };
    const Result a = run(1), b = run(2);
    for (std::size_t i = 0; i < a.values.size(); ++i) CHECK(same_bits(a.values[i], b.values[i]));
    for (std::size_t i = 0; i < a.grads.size(); ++i) CHECK(same_bits(a.grads[i], b.grads[i]));
  }
}

TEST_CASE("a cell that draws random numbers draws new ones at every step") {
  Generator generator(4);
  const Tensor xs = Tensor::full({6, 2, 50}, 1.0);
  const Cell cell = [&](const Tensor& x, const State& s) -> Output {
    const Tensor y = dropout(x, 0.5, generator);
    return {y, {s[0] + y}};
  };
  Tape tape;
  const Tensor watched = tape.watch(xs);
  const Output out = scan(cell, watched, {Tensor::zeros({2, 50})});
  for (std::int64_t t = 1; t < 6; ++t) CHECK(difference(out.output.row(0), out.output.row(t)) > 0);
  // The gradient meets the same masks: they stand in the output itself.
  CHECK(same_bits(tape.gradient(sum(out.output), {watched})[0], out.output));
  CHECK(difference(out.state[0], sum(out.output, {0})) < 1e-6);
}

TEST_CASE("a cell that reads data gets a clear error, and the tape lives on") {
  const Tensor xs = normal({steps, batch, inputs}, 1);
  const Cell reads = [](const Tensor& x, const State& s) -> Output {
    if (x.data<double>()[0] > 0) return {x, s};
    return {x * 2.0, s};
  };
  Tape tape;
  const std::string message =
      message_of<Error>([&] { scan(reads, xs, {Tensor::zeros({batch, 1}, DType::f64)}); });
  CAPTURE(message);
  CHECK(has(message, "data"));
  CHECK(Tape::current() == &tape);
  CHECK(scan(reads, xs, {Tensor::zeros({batch, 1}, DType::f64)}, {.unrolled = true})
            .output.shape() == xs.shape());
}

TEST_CASE("scan says what does not fit") {
  const Tensor xs = normal({steps, batch, inputs}, 1);
  const State h{Tensor::zeros({batch, inputs}, DType::f64)};
  const Cell grows = [](const Tensor& x, const State& s) -> Output {
    return {x, {concat({s[0], x}, 1)}};
  };
  CHECK(has(message_of<Error>([&] { scan(grows, xs, h); }), "state 0 goes in as"));
  const Cell forgets = [](const Tensor& x, const State&) -> Output { return {x, {}}; };
  CHECK(has(message_of<Error>([&] { scan(forgets, xs, h); }), "returns 0"));
  const Cell echo = [](const Tensor& x, const State& s) -> Output { return {x, s}; };
  CHECK(has(message_of<Error>([&] { scan(echo, xs.row(0).row(0), h); }), "sequence"));
  CHECK(has(message_of<Error>([&] {
          scan(echo, xs, h, {.lengths = Tensor::from<std::int64_t>({1, 5, 1}, {3})});
        }),
            "length 5 of row 1"));
  CHECK(has(message_of<Error>([&] {
          scan(echo, xs, h, {.lengths = Tensor::from<std::int64_t>({1, 2}, {2})});
        }),
            "batch of 3"));
  CHECK(Tape::current() == nullptr);
}

TEST_CASE("the plain loop says the same of a state that changes its shape") {
  const Tensor xs = normal({steps, batch, inputs}, 1);
  const State h{Tensor::zeros({batch, inputs}, DType::f64)};
  const Cell grows = [](const Tensor& x, const State& s) -> Output {
    return {x, {concat({s[0], x}, 1)}};
  };
  const Cell forgets = [](const Tensor& x, const State&) -> Output { return {x, {}}; };
  for (const Tensor& lengths : {Tensor(), unsorted()}) {
    CHECK_THROWS_AS(scan(grows, xs, h, {.lengths = lengths, .unrolled = true}), Error);
    CHECK_THROWS_AS(scan(forgets, xs, h, {.lengths = lengths, .unrolled = true}), Error);
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
