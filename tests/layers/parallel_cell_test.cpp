// minGRU, minLSTM, Mamba and RWKV-6: the form for all steps at once, the step of plain ops on the
// tape, and scan, which must agree, and what else is asked of a recurrent layer.

#include <unroll/graph/gradient_check.h>
#include <unroll/layers/mamba.h>
#include <unroll/layers/minimal.h>
#include <unroll/layers/rwkv.h>
#include <unroll/ops/index.h>

#include <functional>

#include "../catch.h"
#include "sequences.h"

using namespace unroll;
using sequences::differentiate;
using sequences::Result;

namespace {

struct Subject {
  const char* name;
  std::function<std::unique_ptr<ParallelCell>(Generator&)> make;
};

template <class Cell, class Options>
Subject subject(const char* name, const Options& options) {
  return {name, [options](Generator& g) { return std::make_unique<Cell>(options, g); }};
}

std::vector<Subject> subjects() {
  const MambaOptions mamba{.d_model = 3, .d_state = 5, .d_conv = 3, .bias = true};
  const RWKVOptions rwkv{.size = 4, .heads = 2, .mix_rank = 2, .layer = 1, .layers = 3};
  return {
      subject<MinGRU>("MinGRU", MinimalCellOptions{.input_size = 3, .hidden_size = 4}),
      subject<MinGRU>(
          "MinGRU, plain",
          MinimalCellOptions{.input_size = 3, .hidden_size = 4, .bias = false, .positive = false}),
      subject<MinLSTM>("MinLSTM", MinimalCellOptions{.input_size = 3, .hidden_size = 4}),
      subject<MinLSTM>("MinLSTM, plain",
                       MinimalCellOptions{.input_size = 2, .hidden_size = 3, .positive = false}),
      subject<MinimalBlock>("MinimalBlock of MinGRU", MinimalBlockOptions{.size = 3}),
      subject<MinimalBlock>("MinimalBlock of MinLSTM",
                            MinimalBlockOptions{.size = 3, .lstm = true, .taps = 1}),
      subject<Mamba>("Mamba", mamba),
      subject<MambaBlock>("MambaBlock", mamba),
      subject<RWKVTimeMix>("RWKVTimeMix", rwkv),
      subject<RWKVChannelMix>("RWKVChannelMix", rwkv),
      subject<RWKVBlock>("RWKVBlock", rwkv),
  };
}

// With parameters away from the initial values, some of which are 0 and hide what is behind them.
std::unique_ptr<ParallelCell> make(const Subject& subject, DType dtype = DType::f64) {
  Generator g(1);
  std::unique_ptr<ParallelCell> cell = subject.make(g);
  for (Parameter p : cell->parameters()) p.set_value(p.value() + g.normal(p.shape(), 0, 0.2));
  cell->to(dtype);
  return cell;
}

// x [steps, batch, input], then a state.
std::vector<Tensor> inputs_of(const ParallelCell& cell, std::int64_t steps, std::int64_t batch,
                              DType dtype = DType::f64) {
  std::vector<Tensor> in{normal({steps, batch, cell.input_size()}, 2, dtype)};
  std::uint64_t seed = 3;
  for (const Tensor& zero : cell.initial_state(batch, dtype))
    in.push_back(normal(zero.shape(), seed++, dtype));
  return in;
}

Output run(const ParallelCell& cell, std::span<const Tensor> in, RecurrentCall call = {}) {
  call.state.assign(in.begin() + 1, in.end());
  return cell.run(in[0], call);
}

Result differentiated(const ParallelCell& cell, std::span<const Tensor> in,
                      const RecurrentCall& call) {
  return differentiate([&](std::span<const Tensor> at) { return run(cell, at, call); }, in,
                       cell.parameters());
}

double largest(const Result& result) {
  double all = 0;
  for (const auto* list : {&result.values, &result.grads})
    for (const Tensor& one : *list)
      all = std::max(all, difference(one, Tensor::zeros(one.shape(), one.dtype())));
  return all;
}

}  // namespace

TEST_CASE("parallel cells: all steps at once, step by step and scanned give the same") {
  // 35 steps pass the boundaries of chunks, at 16 and at 32.
  const Tensor lengths = Tensor::from<std::int64_t>({17, 35, 0}, {3});
  for (const Subject& one : subjects()) DYNAMIC_SECTION(one.name) {
      const auto cell = make(one);
      const std::vector<Tensor> in = inputs_of(*cell, 35, 3);
      for (const Tensor& given : {Tensor(), lengths}) {
        CAPTURE(given.defined());
        const Result together = differentiated(*cell, in, {.lengths = given});
        const Result apart = differentiated(*cell, in, {.lengths = given, .unrolled = true});
        const double scale = std::max(1.0, largest(apart));
        CHECK(sequences::difference(together, apart) < 1e-11 * scale);
        const Result scanned = differentiate(
            [&](std::span<const Tensor> at) {
              return scan([&](const Tensor& x, const State& s) { return (*cell)(x, s); }, at[0],
                          State(at.begin() + 1, at.end()), {.lengths = given});
            },
            in, cell->parameters());
        CHECK(sequences::difference(together, scanned) < 1e-11 * scale);
      }
    }
}

TEST_CASE("parallel cells: f32 is close to the twin in f64") {
  for (const Subject& one : subjects()) DYNAMIC_SECTION(one.name) {
      const auto narrow = make(one, DType::f32), wide = make(one);
      // The same numbers in both.
      for (std::size_t i = 0; i < wide->parameters().size(); ++i)
        wide->parameters()[i].set_value(narrow->parameters()[i].value().to(DType::f64));
      const std::vector<Tensor> in = inputs_of(*narrow, 35, 2, DType::f32);
      std::vector<Tensor> exact;
      for (const Tensor& x : in) exact.push_back(x.to(DType::f64));
      const Result twin = differentiated(*wide, exact, {.unrolled = true});
      const Result result = differentiated(*narrow, in, {});
      CHECK(sequences::difference(result, twin) < 2e-5 * std::max(1.0, largest(twin)));
    }
}

TEST_CASE("parallel cells: gradients equal central differences") {
  for (const Subject& one : subjects()) DYNAMIC_SECTION(one.name) {
      const auto cell = make(one);
      const Tensor lengths = Tensor::from<std::int64_t>({2, 4, 1}, {3});
      const std::vector<Tensor> in = inputs_of(*cell, 4, 3);
      std::vector<std::size_t> wrt(in.size());
      for (std::size_t i = 0; i < wrt.size(); ++i) wrt[i] = i;
      for (const Tensor& given : {Tensor(), lengths}) {
        const TensorFunction f = [&](std::span<const Tensor> at) {
          Output out = run(*cell, at, {.lengths = given});
          std::vector<Tensor> all{out.output};
          for (const Tensor& state : out.state) all.push_back(state);
          return all;
        };
        CHECK(gradient_error(f, in, wrt) < 1e-6);
      }
      // All parameters along one random direction.
      const Result result = differentiated(*cell, in, {});
      std::vector<Parameter> parameters = cell->parameters();
      std::vector<Tensor> origin, direction;
      double slope = 0;
      std::uint64_t seed = 20;
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        origin.push_back(parameters[i].value().clone());
        direction.push_back(normal(parameters[i].shape(), seed++));
        slope += sum(direction[i] * parameters[i].grad()).item();
      }
      const auto loss_at = [&](double step) {
        for (std::size_t i = 0; i < parameters.size(); ++i)
          parameters[i].set_value(origin[i] + step * direction[i]);
        const Result moved = differentiated(*cell, in, {});
        double loss = 0;
        std::uint64_t weights = 60;
        for (const Tensor& value : moved.values)
          loss += sum(value * normal(value.shape(), weights++)).item();
        return loss;
      };
      constexpr double h = 1e-4;
      const double coarse = (loss_at(2 * h) - loss_at(-2 * h)) / (4 * h),
                   fine = (loss_at(h) - loss_at(-h)) / (2 * h);
      CHECK((4 * fine - coarse) / 3 == Approx(slope).epsilon(2e-5));
    }
}

TEST_CASE("parallel cells: a padded batch equals each sequence alone") {
  const std::vector<std::int64_t> counts = {20, 3, 35, 1};
  for (const Subject& one : subjects()) DYNAMIC_SECTION(one.name) {
      const auto cell = make(one);
      std::vector<Tensor> in = inputs_of(*cell, 35, 4);
      const Output all = run(*cell, in, {.lengths = Tensor::from(counts, {4})});
      for (std::int64_t b = 0; b < 4; ++b) {
        const std::int64_t length = counts[static_cast<std::size_t>(b)];
        std::vector<Tensor> alone{slice(slice(in[0], 1, b, b + 1), 0, 0, length)};
        for (std::size_t k = 1; k < in.size(); ++k) alone.push_back(slice(in[k], 0, b, b + 1));
        const Output single = run(*cell, alone);
        const Tensor column = slice(all.output, 1, b, b + 1);
        CHECK(difference(slice(column, 0, 0, length), single.output) < 1e-12);
        const Tensor padding = slice(column, 0, length);
        CHECK(difference(padding, Tensor::zeros(padding.shape(), DType::f64)) == 0);
        for (std::size_t k = 0; k < single.state.size(); ++k)
          CHECK(difference(slice(all.state[k], 0, b, b + 1), single.state[k]) < 1e-12);
      }
    }
}

TEST_CASE("parallel cells: a stream in pieces gives what the whole gives") {
  for (const Subject& one : subjects()) DYNAMIC_SECTION(one.name) {
      const auto cell = make(one, DType::f32);
      const Tensor x = normal({37, 2, cell->input_size()}, 9, DType::f32);
      const Output whole = cell->run(x);
      for (const std::int64_t piece : {1, 2, 19}) {
        State state;
        for (std::int64_t t = 0; t < 37; t += piece) {
          const std::int64_t end = std::min<std::int64_t>(37, t + piece);
          const Output part = cell->run(x.rows(t, end), {.state = state});
          CHECK(difference(part.output, whole.output.rows(t, end)) < 1e-5);
          state = part.state;
        }
        for (std::size_t k = 0; k < state.size(); ++k)
          CHECK(difference(state[k], whole.state[k]) < 1e-5);
      }
    }
}

TEST_CASE("parallel cells: wrong calls say what was wrong") {
  for (const Subject& one : subjects()) DYNAMIC_SECTION(one.name) {
      const auto cell = make(one, DType::f32);
      const std::int64_t n = cell->input_size();
      CHECK(has(message_of<ShapeError>([&] {
                  cell->run(Tensor::zeros({3, 2, n + 1}));
                }),
                "expected [T, B, " + std::to_string(n) + "]"));
      CHECK(has(message_of<ShapeError>([&] { cell->run(Tensor::zeros({3, n})); }), "batch axis"));
      State state = cell->initial_state(3, DType::f32);
      CHECK(has(message_of<ShapeError>([&] {
                  cell->run(Tensor::zeros({3, 2, n}), {.state = state});
                }),
                "state 0 is"));
      state.push_back(state[0]);
      CHECK(has(message_of([&] {
                  cell->run(Tensor::zeros({3, 2, n}), {.state = state});
                }),
                "tensors, got"));
      const Tensor long_ones = Tensor::from<std::int64_t>({3, 4}, {2});
      CHECK(has(message_of([&] {
                  cell->run(Tensor::zeros({3, 2, n}), {.lengths = long_ones});
                }),
                "length 4 of row 1 is not within 0 to 3"));
    }
  CHECK_THROWS_AS(MinGRU({.input_size = 0, .hidden_size = 3}), Error);
  CHECK_THROWS_AS(MinimalBlock({.size = 3, .taps = 0}), Error);
  CHECK_THROWS_AS(Mamba({.d_model = 0}), Error);
  CHECK_THROWS_AS(Mamba({.d_model = 4, .dt_min = 0}), Error);
  CHECK_THROWS_AS(RWKVTimeMix({.size = 5, .heads = 2}), Error);
  CHECK_THROWS_AS(RWKVBlock({.size = 4, .layer = 2, .layers = 2}), Error);
}

TEST_CASE("MinLSTM: gates far below 0 share evenly instead of dividing 0 by 0") {
  MinLSTM cell({.input_size = 1, .hidden_size = 1});
  cell.weight_ih.set_value(Tensor::from<float>({1, 1, 0}, {3, 1}));
  cell.bias_ih.set_value(Tensor::from<float>({0, 0, 1}, {3}));
  const Output out = cell.run(Tensor::full({1, 1, 1}, -500), {.state = {Tensor::full({1, 1}, 3)}});
  CHECK(out.output.item() == Approx(0.5 * 3 + 0.5 * 1.5));
}

TEST_CASE("Mamba starts as published") {
  Generator g(4);
  Mamba mamba({.d_model = 40}, g);
  CHECK(mamba.dt_proj.weight.shape() == Shape{80, 3});
  CHECK(mamba.x_proj.weight.shape() == Shape{35, 80});
  const auto logs = mamba.A_log.value().data<float>();
  for (std::size_t i = 0; i < logs.size(); ++i)
    CHECK(std::exp(logs[i]) == Approx(1 + static_cast<double>(i % 16)));
  for (float d : mamba.D.value().data<float>()) CHECK(d == 1);
  double low = 1, high = 0;
  for (float bias : mamba.dt_proj.bias.value().data<float>()) {
    const double dt = std::log1p(std::exp(static_cast<double>(bias)));
    low = std::min(low, dt), high = std::max(high, dt);
  }
  CHECK((low >= 0.000999 && low < 0.003));
  CHECK((high <= 0.1001 && high > 0.03));
}
