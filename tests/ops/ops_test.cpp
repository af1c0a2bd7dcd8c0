// What the op table's samples do not show: special values, promises of the headers.

#include <unroll/graph/draw.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/embedding.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/norm.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/softmax.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../catch.h"

using namespace unroll;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

Tensor f64(std::initializer_list<double> values, const Shape& shape) {
  return Tensor::from(values, shape);
}
Tensor i64(std::initializer_list<std::int64_t> values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}
std::vector<double> values(const Tensor& x) {
  const Tensor wide = x.to(DType::f64);
  return {wide.data<double>().begin(), wide.data<double>().end()};
}
using V = std::vector<double>;

}  // namespace

TEST_CASE("sums of many f32 numbers lose no digits") {
  const double tenth = static_cast<double>(0.1f);
  CHECK(sum(Tensor::full({3'000'001}, 0.1)).item() == Approx(3'000'001 * tenth).epsilon(5e-7));
  const Tensor columns = sum(Tensor::full({300'000, 10}, 0.1), {0});
  CHECK(columns.data<float>()[3] == Approx(300'000 * tenth).epsilon(5e-7));
}

TEST_CASE("sum over nothing is 0") {
  CHECK(values(sum(Tensor::zeros({2, 0}), {1})) == V{0, 0});
  CHECK(sum(Tensor::zeros({0, 2}), {1}).shape() == Shape{0});
}

TEST_CASE("max shares its gradient among equals, over all axes together") {
  Tape tape;
  const Tensor x = tape.watch(f64({3, 1, 3, 0, 3, 2}, {2, 3, 1}));
  const Tensor y = max(x, {0, 1});
  CHECK(values(tape.gradient(y, {x})[0]) == V{1 / 3., 0, 1 / 3., 0, 1 / 3., 0});
}

TEST_CASE("max, argmax and logsumexp of infinities and NaN") {
  const Tensor x =
      f64({1, not_a_number, 2, -infinity, -infinity, -infinity, infinity, 0, 0}, {3, 3});
  const V top = values(max(x, {1}));
  CHECK(std::isnan(top[0]));
  CHECK(top[1] == -infinity);
  CHECK(top[2] == infinity);
  CHECK(values(argmax(x, 1)) == V{1, 0, 0});
  CHECK(values(argmax(transpose(x), 0)) == V{1, 0, 0});
  for (const Tensor& y : {logsumexp(x, {1}), logsumexp(transpose(x), {0})}) {
    CHECK(std::isnan(values(y)[0]));
    CHECK(values(y)[1] == -infinity);
    CHECK(values(y)[2] == infinity);
  }
  CHECK(argmax(f64({1, 5, 5}, {3})).item() == 1);
}

TEST_CASE("softmax of large numbers, and of rows in which nothing is visible") {
  CHECK(values(softmax(f64({1000, 1000}, {2}))) == V{0.5, 0.5});
  CHECK(values(softmax(f64({-infinity, -infinity, 0, -infinity}, {2, 2}))) == V{0, 0, 1, 0});
  CHECK(values(softmax(f64({-infinity, -infinity, 0, -infinity}, {2, 2}), 0)) == V{0, 0, 1, 0});
  const Tensor x = f64({1, 1, 1, 1}, {2, 2});
  CHECK(values(softmax(x, {.mask = f64({0, 1}, {2, 1})})) == V{0, 0, 0.5, 0.5});
  CHECK(values(softmax(x, {.mask = f64({0, 0, 1, 0}, {2, 2})})) == V{0, 0, 1, 0});
  CHECK(values(softmax(f64({1, 1, 1}, {3, 1}), {.causal = true})) == V{0, 0, 1});
  CHECK(values(softmax(x, {.causal = true})) == V{1, 0, 0.5, 0.5});
  CHECK(std::isnan(values(softmax(f64({1, not_a_number, 2}, {3})))[0]));
  CHECK(softmax(f64({1, 2}, {2}), {}).numel() == 2);  // the options, not axis 0
}

TEST_CASE("cross_entropy without a row that counts is 0 with zero gradients") {
  Tape tape;
  const Tensor x = tape.watch(f64({1, 2, 3, 4}, {2, 2}));
  const Tensor loss = cross_entropy(x, i64({-100, -100}));
  CHECK(loss.item() == 0);
  CHECK(values(tape.gradient(loss, {x})[0]) == V{0, 0, 0, 0});
}

TEST_CASE("cross_entropy keeps its digits at large logits, and names a wrong target") {
  // As f32, 10000 + log(2) has no room for the logarithm.
  Tape tape;
  const Tensor x = tape.watch(f64({10000, 10000}, {1, 2}).to(DType::f32));
  const Tensor loss = cross_entropy(x, i64({0}));
  CHECK(loss.item() == Approx(std::log(2.0)));
  CHECK(values(tape.gradient(loss, {x})[0])[1] == Approx(0.5));
  CHECK(cross_entropy(f64({1, 1, 7, 7}, {2, 2}), i64({0, 9}), {.ignore_index = 9}).item() ==
        Approx(std::log(2.0)));
  const std::string message = message_of([] {
    cross_entropy(f64({1, 2, 3, 4}, {2, 2}), i64({0, 7}));
  });
  CHECK(message.starts_with("[cross_entropy] index 7 at place 1"));
  CHECK(message.find("2 classes") != std::string::npos);
  CHECK(message.find("ops_test.cpp:") != std::string::npos);
}

TEST_CASE("losses at large logits stay finite") {
  const Tensor x = f64({1000, -1000}, {2}), y = f64({0, 1}, {2});
  CHECK(binary_cross_entropy_with_logits(x, y).item() == 1000);
  const Tensor each =
      huber_loss(f64({3, 0.5}, {2}), f64({0, 0}, {2}), {.reduction = Reduction::none});
  CHECK(each.data<double>()[1] == 0.125);
}

TEST_CASE("layer_norm is safe against large means") {
  Tensor x = Tensor::full({1, 64}, 10000);
  x.mutable_data<float>()[5] += 1;
  const V y = values(layer_norm(x));
  CHECK(y[5] == Approx(std::sqrt(63.0)).epsilon(1e-3));
}

TEST_CASE("views share memory, copies do not") {
  const Tensor x = f64({1, 2, 3, 4, 5, 6}, {3, 2});
  CHECK(reshape(x, {-1}).bytes() == x.bytes());
  CHECK(slice(x, 0, 1, 3).bytes() == x.bytes() + 16);
  CHECK(split(x, 3)[2].bytes() == x.bytes() + 32);
  CHECK(values(slice(x, 1, 1)) == V{2, 4, 6});
  CHECK(permute(x, {0, 1}).bytes() == x.bytes());
}

TEST_CASE("permute moves every element, for all orders and element sizes") {
  for (DType dtype : {DType::f32, DType::f64, DType::u8, DType::i64}) {
    Tensor x = Tensor::empty({3, 4, 5, 4}, DType::i64);
    for (std::int64_t i = 0; i < x.numel(); ++i) x.mutable_data<std::int64_t>()[i] = i % 251;
    x = x.to(dtype);
    std::vector<int> axes{0, 1, 2, 3};
    do {
      const Tensor wide = permute(x, axes).to(DType::i64), from = x.to(DType::i64);
      bool same = true;
      std::int64_t at[4];
      for (at[0] = 0; at[0] < 3; ++at[0])
        for (at[1] = 0; at[1] < 4; ++at[1])
          for (at[2] = 0; at[2] < 5; ++at[2])
            for (at[3] = 0; at[3] < 4; ++at[3]) {
              std::int64_t source = 0, place = 0;
              for (int i = 0; i < 4; ++i) source = source * x.size(i) + at[i];
              for (int i = 0; i < 4; ++i) place = place * wide.size(i) + at[axes[i]];
              same = same && from.data<std::int64_t>()[source] == wide.data<std::int64_t>()[place];
            }
      CHECK(same);
    } while (std::next_permutation(axes.begin(), axes.end()));
  }
}

TEST_CASE("transposes larger than a tile") {
  Tensor x = Generator(1).normal({3, 37, 83}, 0, 1);
  const Tensor y = transpose(x);
  bool same = true;
  for (int a = 0; a < 3; ++a)
    for (int i = 0; i < 37; ++i)
      for (int j = 0; j < 83; ++j)
        same = same &&
               x.data<float>()[(a * 37 + i) * 83 + j] == y.data<float>()[(a * 83 + j) * 37 + i];
  CHECK(same);
}

TEST_CASE("hundreds of tensors in one concat, and back") {
  Tape tape;
  std::vector<Tensor> parts;
  for (int i = 0; i < 300; ++i) parts.push_back(tape.watch(Tensor::full({2, 1}, i)));
  const Tensor all = concat(parts, 1);
  REQUIRE(all.shape() == Shape{2, 300});
  CHECK(all.data<float>()[299] == 299);
  Tensor seed = Generator(1).normal({2, 300}, 0, 1);
  const std::vector<Tensor> gradients =
      tape.gradient(std::span(&all, 1), parts, {.seeds = std::span(&seed, 1)});
  CHECK(gradients[123].data<float>()[1] == seed.data<float>()[300 + 123]);
}

TEST_CASE("embedding sums the gradients of a row used twice") {
  Tape tape;
  const Tensor table = tape.watch(Tensor::zeros({3, 2}));
  const Tensor out = embedding(table, i64({2, 0, 2}));
  const Tensor loss = sum(out * Tensor::from({1.f, 2.f, 3.f, 4.f, 5.f, 6.f}, {3, 2}));
  CHECK(values(tape.gradient(loss, {table})[0]) == V{3, 4, 0, 0, 6, 8});
  const std::string message = message_of([] { embedding(Tensor::zeros({3, 2}), i64({1, 3})); });
  CHECK(message.starts_with("[embedding] index 3 at place 1"));
}

TEST_CASE("dropout draws the generator's own numbers") {
  for (const std::int64_t n : {1, 5, 1000, 10007}) {
    Generator g(1234567890123ull), copy = g;
    const Tensor y = dropout(Tensor::full({n}, 1), 0.25, g);
    bool same = true;
    for (std::int64_t i = 0; i < n; ++i)
      same = same && y.data<float>()[i] == (copy.next() < 0x40000000u ? 0.f : 1 / 0.75f);
    CHECK(same);
  }
}

TEST_CASE("dropout keeps the mean, draws new masks, and is the identity where not training") {
  Generator g(5);
  const Tensor x = Tensor::full({100, 1000}, 1);
  const Tensor a = dropout(x, 0.3, g), b = dropout(x, 0.3, g);
  CHECK(mean(a).item() == Approx(1).margin(0.01));
  CHECK(mean(equal(a, b)).item() == Approx(0.7 * 0.7 + 0.3 * 0.3).margin(0.01));
  CHECK(dropout(x, 0.3, g, false).bytes() == x.bytes());
  CHECK_THROWS_AS(dropout(x, 1, g), Error);
  CHECK_THROWS_AS(dropout(x, -0.1, g), Error);
  // Single numbers drawn before leave a position within a block; no number is used twice.
  Generator h(5);
  h.next();
  const std::uint64_t first = h.draw(5).position().next;
  CHECK(first % 4 == 0);
  CHECK(h.position() >= first + 5);
}
