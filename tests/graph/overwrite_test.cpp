// A gradient that only the walk back holds is written over by the next one. Its twin is the walk
// that is recorded, which writes over nothing; and whatever somebody else holds stays as it was.

#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/layers/recurrent.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/custom.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/reduce.h>

#include <functional>
#include <tuple>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

struct AddTwo {
  auto operator()(auto a, auto b) const { return a + b; }
};

using Function = std::function<Tensor(const Tensor&)>;

// Every way in which a vjp passes its gradient on.
const std::vector<Function> functions = {
    [](const Tensor& x) { return x * 0.9; },
    [](const Tensor& x) { return tanh(x); },
    [](const Tensor& x) { return sigmoid(x); },
    [](const Tensor& x) { return exp(x * 0.1); },
    [](const Tensor& x) { return pointwise([](auto a) { return a * sigmoid(a); }, x); },
};

Tensor chain(const Function& f, Tensor x, int length) {
  for (int i = 0; i < length; ++i) x = f(x);
  return x;
}

// What a walk back through so many calls takes in buffers.
std::int64_t buffers_of_walk(const Function& f, int length, std::int64_t size) {
  const Parameter p(Tensor::full({size}, 0.5));
  Tape tape;
  const Tensor loss = sum(chain(f, p, length));
  const std::int64_t before = memory_stats().allocations;
  tape.backward(loss);
  return memory_stats().allocations - before;
}

}  // namespace

TEST_CASE("elementwise vjps write over the gradient that they were given") {
  for (const std::int64_t size : {1, 100, 10000})
    for (std::size_t f = 0; f < functions.size(); ++f) {
      CAPTURE(size, f);
      CHECK(buffers_of_walk(functions[f], 20, size) == buffers_of_walk(functions[f], 10, size));
    }
}

TEST_CASE("overwritten gradients have the bits of a walk that overwrites nothing") {
  const auto both = [](auto x, auto y) { return std::tuple{x * tanh(y), x - y * y}; };
  for (const std::int64_t n : {1, 17, 4096, 4097, 9000})
    for (const DType dtype : {DType::f32, DType::f64}) {
      CAPTURE(n, to_string(dtype));
      const Tensor a = normal({n}, 1).to(dtype), b = normal({n}, 2).to(dtype);
      const auto walk = [&](bool create_graph) {
        Tape tape;
        const Tensor x = tape.watch(a), y = tape.watch(b);
        Tensor u = x, v = y;
        for (const Function& f : functions) std::tie(u, v) = std::pair{f(v), f(u)};
        const auto [p, q] = pointwise(both, u, v);
        const Tensor loss = sum(p * 2.0) + sum(tanh(q)) + sum(square(u));
        const Tensor wrt[] = {x, y, u};
        return tape.gradient({&loss, 1}, wrt, {.create_graph = create_graph});
      };
      const auto fast = walk(false), slow = walk(true);
      for (std::size_t i = 0; i < fast.size(); ++i) CHECK(same_bits(fast[i], slow[i]));
    }
}

TEST_CASE("a recorded walk overwrites nothing, so that it can be differentiated") {
  for (std::size_t f = 0; f < functions.size(); ++f) {
    CAPTURE(f);
    Tape tape;
    const Tensor x = tape.watch(normal({5}, 1));
    const Tensor loss = sum(square(functions[f](functions[f](x))));
    const auto first = tape.gradient({&loss, 1}, {&x, 1}, {.create_graph = true})[0];
    const Tensor held = first.clone();
    CHECK(tape.needs_grad(first));
    const Tensor second = tape.gradient(sum(first), {x})[0];
    CHECK(max(abs(second)).item() > 0);
    CHECK(difference(first, held) == 0);
    CHECK(difference(tape.gradient(sum(first), {x})[0], second) == 0);
  }
}

TEST_CASE("a walk does not write over the seeds") {
  for (std::size_t f = 0; f < functions.size(); ++f) {
    CAPTURE(f);
    Tape tape;
    const Tensor x = tape.watch(normal({6}, 1));
    const Tensor y = functions[f](functions[f](x));
    const Tensor all = normal({3, 6}, 2), kept = all.clone();
    Tensor lent = normal({6}, 3);
    const Tensor seeds[] = {all.row(1), Tensor::borrowed(lent.bytes(), lent.spec())};
    const Tensor lent_kept = lent.clone();
    for (const Tensor& seed : seeds) tape.gradient({&y, 1}, {&x, 1}, {.seeds = {&seed, 1}});
    CHECK(difference(all, kept) == 0);
    CHECK(difference(lent, lent_kept) == 0);
  }
}

TEST_CASE("one tensor as the gradient of two values stays what it is to the second") {
  Tape tape;
  const Tensor x = tape.watch(normal({5}, 1)), y = tape.watch(normal({5}, 2));
  const Tensor loss = sum(x * 2.0 + y * 3.0);
  const auto grads = tape.gradient(loss, {x, y});
  for (std::int64_t i = 0; i < 5; ++i) {
    CHECK(grads[0].data<double>()[i] == 2);
    CHECK(grads[1].data<double>()[i] == 3);
  }
}

TEST_CASE("views of a gradient are other handles on it") {
  Tape tape;
  const Tensor x = tape.watch(normal({4, 3}, 1));
  const Tensor u = x * 2.0, flat = reshape(u, {12});
  const Tensor loss = sum(flat * 5.0) + sum(slice(u, 0, 1, 3));
  const auto grads = tape.gradient(loss, {flat, u, x});
  const auto of_u = grads[1].data<double>(), of_x = grads[2].data<double>();
  for (std::size_t i = 0; i < 12; ++i) {
    CHECK(grads[0].data<double>()[i] == 5);
    CHECK(of_u[i] == (i >= 3 && i < 9 ? 6 : 5));
    CHECK(of_x[i] == 2 * of_u[i]);
  }
}

TEST_CASE("a gradient taken on the way down is not written over below") {
  for (std::size_t f = 0; f < functions.size(); ++f) {
    CAPTURE(f);
    Tape tape;
    const Tensor x = tape.watch(normal({5}, 1));
    const Tensor middle = functions[f](x);
    const Tensor loss = sum(middle * 3.0);
    const auto grads = tape.gradient(loss, {middle, x});
    for (const double g : grads[0].data<double>()) CHECK(g == 3);
    CHECK(difference(grads[1], tape.gradient(loss, {x})[0]) == 0);
  }
}

TEST_CASE("what a vjp of the user's holds is not written over") {
  const Parameter p(normal({5}, 1)), q(normal({5}, 2));
  const Tensor value = 2.0 * p.value();
  Tensor seen, kept;
  Tape tape;
  const Tensor y = custom_op(
      "watcher", {p * 2.0, q * 7.0}, [](auto in) { return in[0] * in[1]; },
      [&](auto in, auto, auto grads) {
        seen = grads[0];
        kept = in[0];
        return Tensors{grads[0], in[0]};  // what was kept passes for a gradient
      });
  tape.backward(sum(y * 3.0), {.retain = true});
  for (const double g : seen.data<double>()) CHECK(g == 3);
  for (const double g : p.grad().data<double>()) CHECK(g == 6);
  CHECK(difference(kept, value) == 0);
  CHECK(difference(q.grad(), 7.0 * value) == 0);
}

TEST_CASE("walks that retain, or that fail half way, can be repeated") {
  const Parameter p(normal({5}, 1));
  bool broken = true;
  Tape tape;
  const Tensor middle = custom_op(
      "moody", {tanh(p * 2.0)}, [](auto in) { return in[0] * 1.0; },
      [&](auto, auto, auto grads) {
        if (broken) throw Error("not now");
        return Tensors{grads[0]};
      });
  const Tensor loss = sum(tanh(middle * 3.0));
  CHECK(has(message_of([&] { tape.backward(loss, {.retain = true}); }), "not now"));
  CHECK(!p.grad().defined());
  broken = false;
  tape.backward(loss, {.retain = true});
  const Tensor once = p.grad().clone();
  tape.backward(loss);
  CHECK(difference(p.grad(), once * 2.0) == 0);
  const Tensor x = p.value();
  const auto expected = pointwise(
      [](auto x) {
        const auto y = tanh(x * 2.0), z = tanh(y * 3.0);
        return 6.0 * (1.0 - z * z) * (1.0 - y * y);
      },
      x);
  CHECK(difference(once, expected) < 1e-12);
}

TEST_CASE("what a walk that failed has overwritten is not walked back through again") {
  Generator g(1);
  const GRU gru({.input_size = 4, .hidden_size = 8}, g);
  const Tensor x = normal({12, 6, 4}, 3, DType::f32);
  for (const double scale : {1e37, 1e38}) {
    Tape tape(Tape::Options{.check_numbers = true});
    const Tensor out = gru(x).output;
    const Tensor grown = custom_op(
        "grown", {out}, [](auto in) { return in[0] * 1.0; },
        [&](auto, auto, auto grads) -> Tensors { return {grads[0] * scale}; });
    CHECK_THROWS_AS(tape.backward(sum(grown)), Error);
    CHECK_THROWS_AS(tape.backward(sum(out * 2.0)), Error);
  }
}

TEST_CASE("a result is not written over an operand that does not fit") {
  const Tensor y = Tensor::full({4}, 1.0);
  Tensor x = Tensor::full({1}, 5.0);
  const Tensor* const in[] = {&x, &y};
  const detail::PointwiseOf<AddTwo, 2> op("add_two", AddTwo(), 1);
  CHECK_THROWS_AS(apply(op, Args(in), std::span(&x, 1), Where::current()), Error);
  CHECK(x.item() == 5.0);
}

TEST_CASE("denormals are flushed in gradient() as in the tape that has ended") {
  const std::vector<Tensor> seeds(3, Tensor::full({4}, 3e-39));  // while nothing flushes them
  Tape tape;
  const Tensor y = tape.watch(Tensor::full({4}, 1.0)) * 2.0;
  const std::vector<Tensor> outputs(3, y);  // the third seed is added where the sum lies
  const auto walk = [&] { return tape.gradient(outputs, {&y, 1}, {.seeds = seeds})[0]; };
  const Tensor live = walk();
  tape.stop();
  CHECK(same_bits(walk(), live));
}
