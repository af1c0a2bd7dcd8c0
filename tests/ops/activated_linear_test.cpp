// A linear layer of an activation: with the activation in its products, and as two ops.

#include <unroll/graph/dry_run.h>
#include <unroll/graph/program.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/activated_linear.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/scan.h>

#include <algorithm>

#include "amx_products.h"

using namespace unroll;
using amx_products::available;

namespace {

struct Operands {
  Tensor x, weight, bias, seed;
  Operands(std::int64_t rows, std::int64_t in, std::int64_t out)
      : x(normal({rows / 2, 2, in}, 1, DType::f32)),
        weight(normal({out, in}, 2, DType::f32)),
        bias(normal({out}, 3, DType::f32)),
        seed(normal({rows / 2, 2, out}, 4, DType::f32)) {}
};

Tensor as_one(Activation f, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return activated_linear(f, x, weight, bias);
}
Tensor as_two(Activation f, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return linear(activate(f, x), weight, bias);
}

// The result and all gradients.
template <class F>
std::vector<Tensor> run(const F& f, const Operands& o, Activation activation, bool bias,
                        DType precision) {
  Tape tape({.precision = precision});
  const Tensor x = tape.watch(o.x), weight = tape.watch(o.weight);
  const Tensor added = bias ? tape.watch(o.bias) : Tensor();
  const Tensor y = f(activation, x, weight, added);
  std::vector<Tensor> wrt{x, weight};
  if (bias) wrt.push_back(added);
  std::vector<Tensor> all = tape.gradient({&y, 1}, wrt, {.seeds = {&o.seed, 1}});
  all.push_back(y);
  return all;
}

std::size_t recorded(const Tape& tape, const Tensor& x, const Tensor& weight) {
  activated_linear(Activation::gelu, x, weight);
  return tape.size();
}

}  // namespace

TEST_CASE("an activation in its product has the bits of the two ops, on one thread and on two") {
  // Columns and depths of several blocks, and blocks that they do not fill; the last but one is too
  // wide to be put together.
  const std::vector<std::array<std::int64_t, 3>> shapes{
      {768, 512, 128}, {300, 500, 70}, {2100, 300, 500}, {700, 515, 600}, {2048, 1024, 256}};
  for (const auto& [rows, in, out] : shapes) {
    const Operands operands(rows, in, out);
    for (const Activation f : {Activation::relu, Activation::gelu})
      for (const DType precision : {DType::f32, DType::bf16})
        for (const bool bias : {true, false}) {
          if (precision == DType::bf16 && !available()) continue;
          CAPTURE(rows, in, out, static_cast<int>(f), bias);
          const auto expected = run(as_two, operands, f, bias, precision);
          for (const int threads : {1, 2}) {
            set_threads(threads);
            const auto got = run(as_one, operands, f, bias, precision);
            set_threads(1);
            for (std::size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], expected[i]));
          }
        }
  }
}

TEST_CASE("an activation in its product is one op on the tape, whose result nobody keeps") {
  if (!available()) return;
  const Operands o(768, 512, 128);
  Tape tape;
  const Tensor x = tape.watch(o.x), weight = tape.watch(o.weight);
  const std::size_t before = tape.size();
  CHECK(recorded(tape, x, weight) == before + 1);
  // A small one, and one in f64, is two.
  const Tensor few = tape.watch(normal({4, 512}, 1, DType::f32));
  const Tensor wide = tape.watch(normal({768, 512}, 1)), w = tape.watch(normal({128, 512}, 2));
  const std::size_t small = tape.size();
  CHECK(recorded(tape, few, weight) == small + 2);
  CHECK(recorded(tape, wide, w) == small + 4);
}

TEST_CASE("second gradients go through an activation in its product") {
  const Operands o(768, 96, 64);
  const auto second = [&](const auto& f) {
    Tape tape;
    const Tensor x = tape.watch(o.x), weight = tape.watch(o.weight);
    const Tensor y = mean(square(f(Activation::gelu, x, weight, Tensor())));
    const std::vector<Tensor> d =
        tape.gradient({&y, 1}, std::array{x, weight}, {.create_graph = true});
    const Tensor by_x = sum(square(d[0])), by_weight = sum(square(d[1]));
    std::vector<Tensor> all = tape.gradient(by_x, {x, weight});
    for (const Tensor& one : tape.gradient(by_weight, {x, weight})) all.push_back(one);
    return all;
  };
  const auto got = second(as_one), expected = second(as_two);
  for (std::size_t i = 0; i < 4; ++i) {
    CAPTURE(i);
    const double size = difference(expected[i], Tensor::zeros(expected[i].shape()));
    CHECK(difference(got[i], expected[i]) < 1e-5 * size);
  }
}

TEST_CASE("a product computes functions of its operands and its result") {
  // All backends, and both ways on tiles: A's columns fit into one block, or do not.
  const GemmFunctions::Map twice = [](const float* x, float* y, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) y[i] = 2 * x[i] + 1;
  };
  const GemmFunctions::Gate times = [](const float* x, const float* c, float* y, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * c[i];
  };
  for (const Gemm& g :
       {Gemm{.bias = true, .m = 5, .n = 3, .k = 2},
        Gemm{.bias = true, .m = 300, .n = 200, .k = 300}, Gemm{.m = 300, .n = 1000, .k = 290}}) {
    const Tensor a = normal({g.m, g.k}, 1, DType::f32), b = normal({g.k, g.n}, 2, DType::f32),
                 bias = normal({g.n}, 3, DType::f32), gate = normal({g.m, g.n}, 4, DType::f32);
    const float* const added = g.bias ? bias.ptr<float>() : nullptr;
    const Tensor a2 = affine(a, 2, 1), b2 = affine(b, 2, 1);
    Tensor plain = Tensor::empty({g.m, g.n}), expected = Tensor::empty({g.m, g.n});
    gemm(g, a2.ptr<float>(), b2.ptr<float>(), added, plain.mutable_ptr<float>());
    times(gate.ptr<float>(), plain.ptr<float>(), expected.mutable_ptr<float>(), plain.numel());
    for (const int threads : {1, 2}) {
      set_threads(threads);
      Tensor c = Tensor::full({g.m, g.n}, std::numeric_limits<float>::quiet_NaN());
      gemm(g, {.of_a = twice, .of_b = twice, .of_c = times, .gate = gate.ptr<float>()},
           a.ptr<float>(), b.ptr<float>(), added, c.mutable_ptr<float>());
      set_threads(1);
      CAPTURE(g.m, g.n, g.k, threads);
      CHECK(same_bits(c, expected));
    }
  }
}

TEST_CASE("a Transformer's feed-forward network: replay has recording's bits") {
  Generator g(1);
  TransformerEncoder encoder({.d_model = 64,
                              .nhead = 4,
                              .num_layers = 1,
                              .activation = FeedForward::gelu,
                              .norm_first = true},
                             g);
  const auto f = [&](std::span<const Tensor> in) -> std::vector<Tensor> {
    return {mean(square(encoder(in[0], {.causal = true}).output))};
  };
  const Tensor x = g.normal({40, 8, 64}, 0, 1);  // 320 rows of 256 numbers
  Program program = trace_gradient(f, {&x, 1});
  const std::span<const Tensor> replayed = program({x});
  Tape tape;
  const Tensor loss = f({&x, 1})[0];
  tape.backward(loss);
  CHECK(same_bits(replayed[0], loss));
  std::size_t i = 1;
  for (const Parameter& parameter : program.parameters()) {
    REQUIRE(i < replayed.size());
    CHECK(same_bits(replayed[i++], parameter.grad()));
  }
}

TEST_CASE(
    "a loop over time takes an activation in its product out, and sums its weight's gradient") {
  const std::int64_t steps = 3, rows = 512, in = 128, out = 64;
  const Tensor xs = normal({steps, rows, in}, 1, DType::f32),
               start = normal({steps, out, in}, 2, DType::f32);
  const auto gradients = [&](bool unrolled) {
    Tape tape;
    const Tensor x = tape.watch(xs), weight = tape.watch(select(start, 0, 0));
    const Cell cell = [&](const Tensor& step, const State& s) -> Output {
      const Tensor h = tanh(s[0] + activated_linear(Activation::gelu, step, weight));
      return {h, {h}};
    };
    const Output y = scan(cell, x, {Tensor::zeros({rows, out})}, {.unrolled = unrolled});
    const Tensor loss = mean(square(y.output));
    std::vector<Tensor> all = tape.gradient(loss, {x, weight});
    all.push_back(y.output);
    return all;
  };
  const auto fast = gradients(false), slow = gradients(true);
  for (std::size_t i = 0; i < fast.size(); ++i) {
    const double size = difference(slow[i], Tensor::zeros(slow[i].shape()));
    CHECK(difference(fast[i], slow[i]) < 1e-5 * size);
  }
}

TEST_CASE("products refuse functions of operands that they cannot apply them to") {
  const Tensor x = normal({4, 4}, 1, DType::f32);
  Tensor c = Tensor::zeros({4, 4});
  const GemmFunctions::Map f = [](const float*, float*, std::int64_t) {};
  const auto run = [&](const Gemm& g, const GemmFunctions& functions) {
    gemm(g, functions, x.ptr<float>(), x.ptr<float>(), nullptr, c.mutable_ptr<float>());
  };
  CHECK_THROWS_AS(run({.transpose_a = true, .m = 4, .n = 4, .k = 4}, {.of_a = f}), Error);
  CHECK_THROWS_AS(run({.transpose_b = true, .m = 4, .n = 4, .k = 4}, {.of_b = f}), Error);
  CHECK_THROWS_AS(run({.m = 4, .n = 2, .k = 4, .ldb = 4}, {.of_b = f}), Error);
}

TEST_CASE("a dry run knows what an activation in its product needs") {
  if (!available()) return;
  const Operands o(2048, 512, 128);
  const auto step = [&] { run(as_one, o, Activation::gelu, true, DType::f32); };
  const auto planned = static_cast<double>(predict_memory(step).peak);
  step();
  reset_peak_memory();
  step();
  CHECK(planned == Approx(static_cast<double>(memory_stats().peak)).epsilon(0.01));
}
