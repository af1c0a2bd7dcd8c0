// Tiled attention against its plain twin, and what tiles must not change.

#include <fmt/format.h>
#include <unroll/graph/memory.h>
#include <unroll/graph/program.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/attention.h>
#include <unroll/ops/cast.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/reduce.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../catch.h"

using namespace unroll;

namespace {

struct Result {
  Tensor output;
  std::vector<Tensor> grads;
};

// The output and the gradients of its product with fixed random numbers.
template <class F>
Result run(const std::vector<Tensor>& inputs, const F& f) {
  Tape tape;
  std::vector<Tensor> watched;
  for (const Tensor& x : inputs) watched.push_back(tape.watch(x));
  const Tensor y = f(watched);
  const Tensor seed = Generator(77).normal(y.shape(), 0, 1, DType::f64).to(y.dtype());
  return {y, tape.gradient(std::span(&y, 1), watched, {.seeds = std::span(&seed, 1)})};
}

double difference(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) return INFINITY;
  const Tensor x = a.to(DType::f64), y = b.to(DType::f64);
  double worst = 0, scale = 1;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double p = x.data<double>()[i], q = y.data<double>()[i];
    if (!(std::abs(p - q) <= worst)) worst = std::abs(p - q);  // a NaN too
    scale = std::max(scale, std::abs(q));
  }
  return worst / scale;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.bytes(), b.bytes(),
                     static_cast<std::size_t>(a.numel() * size_of(a.dtype()))) == 0;
}

void check_same(const Result& a, const Result& b, double within) {
  CHECK(difference(a.output, b.output) <= within);
  REQUIRE(a.grads.size() == b.grads.size());
  for (std::size_t i = 0; i < a.grads.size(); ++i) {
    CAPTURE(i);
    CHECK(difference(a.grads[i], b.grads[i]) <= within);
  }
}

struct Sizes {
  std::int64_t batch, heads, kv_heads, queries, keys, size;
};

std::vector<Tensor> inputs_of(const Sizes& s, DType dtype) {
  Generator g(3);
  const auto normal = [&](const Shape& shape) {
    return g.normal(shape, 0, 1, DType::f64).to(dtype);
  };
  return {normal({s.batch, s.heads, s.queries, s.size}),
          normal({s.batch, s.kv_heads, s.keys, s.size}),
          normal({s.batch, s.kv_heads, s.keys, s.size})};
}

Result attend(const std::vector<Tensor>& inputs, AttentionOptions options, bool plain) {
  options.need_weights = plain;
  const Generator generator(9);
  return run(inputs, [&](const std::vector<Tensor>& in) {
    Generator g = generator;
    if (options.dropout > 0) options.generator = &g;
    const AttentionOutput out = attention(in[0], in[1], in[2], options);
    CHECK(out.weights.defined() == plain);
    return out.output;
  });
}

void check_twins(const Sizes& s, const AttentionOptions& options) {
  CAPTURE(s.batch, s.heads, s.kv_heads, s.queries, s.keys, s.size, options.causal, options.window,
          options.dropout);
  for (const DType dtype : {DType::f32, DType::f64}) {
    const std::vector<Tensor> inputs = inputs_of(s, dtype);
    check_same(attend(inputs, options, false), attend(inputs, options, true),
               dtype == DType::f32 ? 2e-5 : 1e-12);
  }
}

Tensor counts(std::initializer_list<std::int64_t> values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

// [B, H, T, D] -> [T, B, H D]
Tensor time_major(const Tensor& x) {
  return reshape(permute(x, {2, 0, 1, 3}), {x.size(2), x.size(0), x.size(1) * x.size(3)});
}

}  // namespace

TEST_CASE("blocks of queries that go through many keys together give what the plain form gives") {
  // From 2^16 numbers of a head's keys on; 300 queries are five blocks, the last one short.
  const Sizes many{.batch = 4, .heads = 2, .kv_heads = 2, .queries = 300, .keys = 300, .size = 240};
  check_twins(many, {.causal = true});
  check_twins(many, {.causal = true, .window = 70});
  check_twins(many, {.causal = true, .lengths = counts({300, 5, 0, 131})});
  check_twins({.batch = 4, .heads = 4, .kv_heads = 2, .queries = 290, .keys = 300, .size = 240},
              {.dropout = 0.3});
  Generator g(5);
  check_twins(many, {.mask = greater(g.uniform({4, 1, 300, 300}, 0, 1), 0.5)});
  for (const std::int64_t size : {32, 33, 64, 80})  // rows of whole tiles, and others
    check_twins({1, 1, 1, 130, 2100, size}, {.causal = true, .lengths = counts({1999})});
}

TEST_CASE("a program takes lengths and masks of any dtype that recording takes") {
  Generator g(3);
  const Tensor x = g.normal({5, 2, 8}, 0, 1);
  const auto lengths = [](std::int32_t a, std::int32_t b) {
    return Tensor::from<std::int32_t>({a, b}, {2});
  };
  const auto mask = [&](std::uint64_t seed) {
    return cast(greater(Generator(seed).uniform({5, 5}, 0, 1), 0.3), DType::u8);
  };
  const TraceFunction attend = [](std::span<const Tensor> in) -> std::vector<Tensor> {
    const Columns q{in[0]};
    return {attention(q, q, q, 2, {.causal = true, .lengths = in[1], .mask = in[2]}).output};
  };
  Program program = trace(attend, std::vector{x, lengths(5, 5), mask(1)});
  for (const auto& in : {std::vector{x, lengths(3, 5), mask(2)}, {x, lengths(5, 1), mask(3)}}) {
    const Tensor recorded = attend(in)[0], replayed = program(in)[0];
    CHECK(std::ranges::equal(replayed.data<float>(), recorded.data<float>()));
  }
}

TEST_CASE("cast: gradients flow between floating dtypes, and end at others") {
  const Tensor x = Tensor::from<float>({1.75F, -2.5F}, {2});
  Tape tape;
  const Tensor watched = tape.watch(x);
  const Tensor wide = cast(watched, DType::f64);
  CHECK(wide.dtype() == DType::f64);
  const Tensor grad = tape.gradient(sum(wide * wide), {watched})[0];
  CHECK(grad.dtype() == DType::f32);
  CHECK(grad.data<float>()[1] == -5.0F);
  const Tensor cut = cast(x, DType::i32);
  CHECK(cut.data<std::int32_t>()[1] == -2);
  const Tensor whole = cast(cast(watched, DType::i64), DType::f32);
  const Tensor factor = tape.gradient(sum(whole * watched), {watched})[0];
  CHECK(factor.data<float>()[0] == 1.0F);
}

TEST_CASE("tiled attention is the plain one at the edges of tiles") {
  for (const std::int64_t queries : {1, 4, 63, 64, 65, 130})
    for (const std::int64_t keys : {1, 63, 64, 65, 130})
      for (const bool causal : {false, true})
        check_twins({1, 2, 2, queries, keys, 16}, {.causal = causal});
}

TEST_CASE("tiled attention is the plain one for any head size") {
  for (const std::int64_t size : {1, 3, 8, 17, 32, 64, 80, 128})
    check_twins({2, 2, 1, 70, 70, size}, {.causal = true});
}

TEST_CASE("tiled attention hides keys as the plain one does") {
  const Tensor lengths = counts({0, 1, 65, 130});
  for (const bool causal : {false, true}) {
    check_twins({4, 1, 1, 130, 130, 8}, {.causal = causal, .lengths = lengths});
    check_twins({4, 1, 1, 20, 130, 8}, {.causal = causal, .lengths = lengths});
  }
  for (const std::int64_t window : {1, 2, 16, 64, 100, 1000}) {
    check_twins({2, 1, 1, 200, 200, 8}, {.causal = true, .window = window});
    check_twins({2, 1, 1, 70, 150, 8}, {.causal = true, .window = window});
    check_twins({2, 1, 1, 3, 150, 8},
                {.causal = true, .window = window, .lengths = counts({149, 20})});
    check_twins({2, 1, 1, 150, 70, 8},
                {.causal = true, .window = window, .lengths = counts({40, 70})});
  }
  Generator g(4);
  for (const Shape& shape : {Shape{2, 3, 70, 90}, Shape{2, 1, 1, 90}, Shape{70, 1}, Shape{90}})
    for (const bool causal : {false, true})
      check_twins({2, 3, 3, 70, 90, 8},
                  {.causal = causal, .mask = greater(g.uniform(shape, 0, 1), 0.5)});
  for (const Shape& shape : {Shape{2, 3, 2, 90}, Shape{3, 1, 1}})
    check_twins({2, 3, 3, 2, 90, 8}, {.mask = greater(g.uniform(shape, 0, 1), 0.5)});
}

TEST_CASE("heads that share keys and values") {
  for (const std::int64_t kv_heads : {1, 2, 6})
    check_twins({2, 6, kv_heads, 70, 90, 16}, {.causal = true});
}

TEST_CASE("dropout draws the same numbers whatever the tiles") {
  for (const std::int64_t keys : {5, 64, 131})
    for (const bool causal : {false, true})
      for (const std::int64_t queries : {2, 70})
        check_twins({2, 4, 2, queries, keys, 16}, {.causal = causal, .dropout = 0.3});
}

TEST_CASE("a query that sees no key gives zeros, and gradients of zero") {
  const std::vector<Tensor> inputs = inputs_of({2, 1, 1, 5, 3, 4}, DType::f32);
  const Result r = attend(inputs, {.causal = true, .lengths = counts({0, 3})}, false);
  for (std::int64_t i = 0; i < 5 * 4; ++i) {
    CHECK(r.output.data<float>()[i] == 0.0f);  // no key at all
    CHECK(r.grads[0].data<float>()[i] == 0.0f);
  }
  for (std::int64_t i = 0; i < 3 * 4; ++i) CHECK(r.grads[1].data<float>()[i] == 0.0f);
  for (std::int64_t i = 0; i < 2 * 4; ++i)
    CHECK(r.output.data<float>()[5 * 4 + i] == 0.0f);  // before the first key
  Tape tape({.check_numbers = true});
  const Tensor q = tape.watch(inputs[0]);
  CHECK_NOTHROW(tape.gradient(
      sum(attention(q, inputs[1], inputs[2], {.lengths = counts({0, 3})}).output), {q}));
}

TEST_CASE("what is hidden does not matter, not even a NaN") {
  for (const auto& [keys, size] : {std::pair<std::int64_t, std::int64_t>{70, 8}, {300, 240}}) {
    CAPTURE(keys);
    std::vector<Tensor> inputs = inputs_of({1, 1, 1, 70, keys, size}, DType::f32);
    const AttentionOptions options{.lengths = counts({keys - 4})};
    const Result clean = attend(inputs, options, false);
    for (std::size_t which : {1, 2}) {
      inputs[which] = inputs[which].clone();
      for (std::int64_t i = (keys - 4) * size; i < keys * size; ++i)
        inputs[which].mutable_data<float>()[i] = std::nanf("");
    }
    const Result r = attend(inputs, options, false);
    CHECK(same_bits(r.output, clean.output));
    for (std::size_t i = 0; i < 3; ++i) CHECK(same_bits(r.grads[i], clean.grads[i]));
  }
}

TEST_CASE("columns of one projection are heads of separate tensors") {
  for (const std::int64_t kv_heads : {4, 2})
    for (const std::int64_t steps : {1, 64, 130}) {
      CAPTURE(kv_heads, steps);
      const Sizes s{3, 4, kv_heads, steps, steps, 16};
      const std::vector<Tensor> apart = inputs_of(s, DType::f32);
      const AttentionOptions options{.causal = true, .lengths = counts({steps, 1, steps / 2})};
      const Result expected = attend(apart, options, false);
      const Tensor joined =
          concat({time_major(apart[0]), time_major(apart[1]), time_major(apart[2])}, 2);
      const std::int64_t e = 4 * 16, kv = kv_heads * 16;
      for (const bool plain : {false, true}) {
        AttentionOptions o = options;
        o.need_weights = plain;
        const Result r = run({joined}, [&](const std::vector<Tensor>& in) {
          const Tensor y =
              attention({in[0], 0, e}, {in[0], e, kv}, {in[0], e + kv, kv}, 4, o).output;
          // Back to heads, so that the same numbers weigh the same elements.
          return permute(reshape(y, {steps, 3, 4, 16}), {1, 2, 0, 3});
        });
        CHECK(difference(r.output, expected.output) <= 1e-5);
        const Tensor grads = concat({time_major(expected.grads[0]), time_major(expected.grads[1]),
                                     time_major(expected.grads[2])},
                                    2);
        CHECK(difference(r.grads[0], grads) <= 1e-5);
      }
    }
}

TEST_CASE("columns that overlap, or leave some out, get their gradients too") {
  const Tensor x = Generator(8).normal({9, 2, 24}, 0, 1, DType::f64);
  const auto overlapping = [](const Tensor& in, const AttentionOptions& o) {
    return attention({in, 0, 8}, {in, 4, 8}, {in, 4, 8}, 2, o).output;
  };
  const auto whole_and_columns = [](const Tensor& in, const AttentionOptions& o) {
    return attention(Columns{in}, {in, 0, 12}, {in, 12, 12}, 4, o).output;
  };
  const auto check = [&](const auto& call) {
    const auto result = [&](bool plain) {
      return run({x}, [&](const std::vector<Tensor>& in) {
        return call(in[0], {.causal = true, .need_weights = plain});
      });
    };
    check_same(result(false), result(true), 1e-12);
  };
  check(overlapping);
  check(whole_and_columns);
}

TEST_CASE("attention gives the same bits on one thread and two") {
  for (const Sizes& s : {Sizes{2, 4, 2, 300, 300, 32}, Sizes{1, 1, 1, 500, 500, 64},
                         Sizes{1, 2, 1, 600, 600, 128}}) {
    const std::vector<Tensor> inputs = inputs_of(s, DType::f32);
    for (const double dropout : {0.0, 0.2}) {
      const AttentionOptions options{.causal = true, .dropout = dropout};
      set_threads(1);
      const Result one = attend(inputs, options, false);
      set_threads(2);
      const Result two = attend(inputs, options, false);
      set_threads(1);
      CHECK(same_bits(one.output, two.output));
      for (std::size_t i = 0; i < 3; ++i) CHECK(same_bits(one.grads[i], two.grads[i]));
    }
  }
}

TEST_CASE("attention's memory grows with the length, not with its square") {
  const auto scratch = [](std::int64_t steps) {
    const std::vector<Tensor> inputs = inputs_of({1, 2, 2, steps, steps, 32}, DType::f32);
    attend(inputs, {.causal = true}, false);
    reset_peak_memory();
    const std::int64_t before = memory_stats().live;
    const Result r = attend(inputs, {.causal = true}, false);
    // Without the result, its gradient's seed (in f64 too) and three gradients.
    return memory_stats().peak - before - 7 * inputs[0].numel() * 4;
  };
  const std::int64_t one = scratch(1024), two = scratch(2048);
  CHECK(one < 1'000'000);
  CHECK(two < 2 * one + 100'000);
}
