#include <unroll/graph/tape.h>
#include <unroll/layers/linear.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/custom.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>

#include <cmath>
#include <optional>
#include <string>
#include <thread>

#include "../catch.h"

using namespace unroll;

namespace {

Tensor number(double value) { return Tensor::full({}, value, DType::f64); }
Parameter parameter(double value) { return Parameter(number(value)); }

}  // namespace

TEST_CASE("without a tape nothing is recorded") {
  const Parameter p = parameter(3);
  const Tensor y = square(p);
  CHECK(Tape::current() == nullptr);
  CHECK(y.ref().tape() == 0);
  Tape tape;
  CHECK(tape.size() == 0);
  CHECK(has(message_of([&] { tape.backward(y); }), "not recorded on this tape"));
}

TEST_CASE("constants are not recorded, what depends on a parameter is") {
  const Parameter p = parameter(3);
  Tape tape;
  const Tensor constant = number(2) * number(5);
  CHECK(tape.size() == 0);
  CHECK(!tape.owns(constant));
  const Tensor y = p * constant;
  CHECK(tape.size() == 2);  // the parameter's leaf and the product
  CHECK(tape.needs_grad(y));
  const Tensor z = square(p);
  CHECK(tape.size() == 3);  // one leaf serves both
  (void)z;
}

TEST_CASE("a parameter that is not trainable is a constant") {
  Parameter p = parameter(3);
  p.set_trainable(false);
  const Parameter q = parameter(4);
  Tape tape;
  const Tensor y = p * q;
  tape.backward(y);
  CHECK(!p.grad().defined());
  CHECK(q.grad().item() == 3);
}

TEST_CASE("NoGrad records nothing, and views of recorded values are constants there") {
  Tape tape;
  const Tensor x = tape.watch(Tensor::full({2, 2}, 1, DType::f64));
  const std::size_t before = tape.size();
  {
    const NoGrad constant;
    CHECK(Tape::current() == nullptr);
    const Tensor y = square(x);
    CHECK(tape.size() == before);
    CHECK(!tape.owns(y));
  }
  CHECK(Tape::current() == &tape);
}

TEST_CASE("a view made under NoGrad carries no gradient") {
  Tape tape;
  const Tensor x = tape.watch(Tensor::full({2, 2}, 3, DType::f64));
  Tensor view;
  {
    const NoGrad constant;
    view = reshape(x, {4});
  }
  const Tensor part = sum(view * view);
  CHECK(!tape.owns(view));
  CHECK(!tape.owns(part));
}

TEST_CASE("gradients by watched values, and zeros for what has no influence") {
  Tape tape;
  const Tensor x = tape.watch(Tensor::from({1.0, 2.0, 3.0}, {3}));
  const Tensor unused = tape.watch(Tensor::from({7.0}, {1}));
  const Tensor middle = square(x);
  const Tensor loss = sum(middle * x);
  const std::vector<Tensor> grads = tape.gradient(loss, {x, unused, middle, loss});
  for (int i = 0; i < 3; ++i)
    CHECK(grads[0].data<double>()[static_cast<std::size_t>(i)] == 3.0 * (i + 1) * (i + 1));
  CHECK(grads[1].item() == 0);
  CHECK(grads[2].data<double>()[2] == 3);
  CHECK(grads[3].item() == 1);
  CHECK(tape.gradient(loss, {x})[0].data<double>()[1] == 12);  // it can be walked again
}

TEST_CASE("gradients by a view of a watched value") {
  Tape tape;
  const Tensor x = tape.watch(Tensor::from({1.0, 2.0, 3.0, 4.0}, {2, 2}));
  const Tensor flat = reshape(x, {4});
  const Tensor row = slice(x, 0, 1, 2);
  const Tensor loss = sum(square(flat)) + sum(row) * 10.0;
  const Tensor grad = tape.gradient(loss, {x})[0];
  CHECK(grad.data<double>()[0] == 2);
  CHECK(grad.data<double>()[3] == 18);
}

TEST_CASE("several outputs with seeds") {
  Tape tape;
  const Tensor x = tape.watch(Tensor::from({2.0, 3.0}, {2}));
  const Tensor a = square(x), b = x * 5.0;
  const Tensor outputs[] = {a, b, a};
  const Tensor seeds[] = {Tensor::from({1.0, 0.0}, {2}), Tensor::from({0.0, 2.0}, {2}),
                          Tensor::from({1.0, 1.0}, {2})};
  const Tensor wrt[] = {x};
  const Tensor grad = tape.gradient(outputs, wrt, {.seeds = seeds})[0];
  CHECK(grad.data<double>()[0] == 8);
  CHECK(grad.data<double>()[1] == 16);
  CHECK_THROWS_AS(tape.gradient(outputs, wrt, {.seeds = std::span(seeds, 1)}), Error);
}

TEST_CASE("backward accumulates into parameters, over uses and over calls") {
  Parameter p = parameter(3);
  for (int i = 0; i < 2; ++i) {
    Tape tape;
    tape.backward(p * p + p * 2.0);
  }
  CHECK(p.grad().item() == 16);
  p.zero_grad();
  CHECK(!p.grad().defined());
}

TEST_CASE("accumulation does not write into a gradient that somebody holds") {
  const Parameter p = parameter(3);
  const auto walk = [&] {
    Tape tape;
    tape.backward(square(p));
  };
  walk();
  const Tensor held = p.grad();
  walk();
  CHECK(held.item() == 6);
  CHECK(p.grad().item() == 12);
}

TEST_CASE("two parameters whose gradients are one tensor stay apart") {
  const Parameter p = parameter(3), q = parameter(4);
  for (int i = 0; i < 2; ++i) {
    Tape tape;
    tape.backward(p + q);
  }
  CHECK(p.grad().item() == 2);
  CHECK(q.grad().item() == 2);
}

TEST_CASE("a second walk back needs retain") {
  Parameter p = parameter(3);
  Tape tape;
  const Tensor loss = square(p);
  tape.backward(loss, {.retain = true});
  tape.backward(loss);
  CHECK(p.grad().item() == 12);
  const std::string message = message_of([&] { tape.backward(loss); });
  CAPTURE(message);
  CHECK(has(message, "'square' was walked back through already"));
  CHECK(has(message, "retain"));
  CHECK(has(message, "tape_test.cpp:"));
  CHECK(p.grad().item() == 12);
}

TEST_CASE("a backward that fails leaves all parameters as they were") {
  const Parameter p = parameter(3), q = parameter(2);
  Tape tape;
  const Tensor broken = custom_op(
      "broken", {p}, [](auto in) { return in[0] * 2.0; },
      [](auto, auto, auto) -> Tensors { throw Error("no way back"); });
  const Tensor loss = broken + square(q);
  CHECK(has(message_of([&] { tape.backward(loss); }), "no way back"));
  CHECK(!p.grad().defined());
  CHECK(!q.grad().defined());
  CHECK(Tape::current() == &tape);
  CHECK(has(message_of([&] { tape.backward(number(2) * q.value()); }), "not recorded"));
  CHECK(has(message_of([&] {
              const Tensor two = p * Tensor::full({2}, 1, DType::f64);
              tape.backward(two);
            }),
            "one element"));
}

TEST_CASE("a value of a tape that is gone is an error that says so") {
  const Parameter p = parameter(3);
  Tensor old;
  {
    Tape tape;
    old = square(p);
  }
  Tape tape;
  const std::string message = message_of([&] { tape.backward(old); });
  CAPTURE(message);
  CHECK(has(message, "another tape"));
  CHECK(has(message, "while this tape lives"));
  CHECK(!p.grad().defined());
  // As a constant it can still be used.
  tape.backward(old * p);
  CHECK(p.grad().item() == 9);
}

TEST_CASE("rewind forgets what came after the mark") {
  const Parameter p = parameter(3), q = parameter(5);
  Tape tape;
  const Tensor before = square(p);
  const Tape::Mark mark = tape.mark();
  const std::size_t size = tape.size();
  for (int i = 0; i < 3; ++i) {
    const Tensor after = before * q;
    CHECK(tape.size() == size + 2);
    tape.rewind(mark);
    CHECK(tape.size() == size);
    CHECK(!tape.owns(after));
    CHECK_THROWS_AS(tape.backward(after), Error);
  }
  tape.backward(before * q);
  CHECK(p.grad().item() == 30);
  CHECK(q.grad().item() == 9);
}

TEST_CASE("a tape goes on right behind a mark wherever its blocks end") {
  const Parameter w(Tensor::full({3}, 1.0, DType::f64));
  for (const int kept : {1, 126, 127, 128, 129, 255, 256, 257, 600}) {
    Tape tape;
    Tensor y = w;
    for (int i = 0; i < kept; ++i) y = y * 1.01;
    const Tape::Mark mark = tape.mark();
    Tensor z = y;
    for (int i = 0; i < 300; ++i) z = z * 2.0;
    tape.rewind(mark);
    CHECK(!tape.owns(z));
    const Tensor loss = sum(y * 3.0);
    const Tensor gradient = tape.gradient(loss, {w})[0];
    CHECK(gradient.data<double>()[2] == Approx(3 * std::pow(1.01, kept)));
  }
}

TEST_CASE("rewind frees memory") {
  Tape tape;
  const Tensor x = tape.watch(Tensor::full({1000}, 1));
  const Tape::Mark mark = tape.mark();
  std::int64_t live = 0;
  for (int i = 0; i < 50; ++i) {
    Tensor y = x;
    for (int k = 0; k < 20; ++k) y = tanh(y);
    y = {};
    tape.rewind(mark);
    if (i == 1) live = memory_stats().live;
  }
  CHECK(memory_stats().live == live);
}

TEST_CASE("backward down to a mark gives parameters what reached them by then") {
  const Parameter p = parameter(3), q = parameter(5);
  Tape tape;
  const Tensor early = square(p);
  (void)Tensor(q);
  const Tape::Mark mark = tape.mark();
  const Tensor loss = early * q;
  tape.backward(loss, {.down_to = mark});
  CHECK(q.grad().item() == 9);
  CHECK(!p.grad().defined());
}

TEST_CASE("a chain of a million ops can be walked back") {
  const Parameter p(Tensor::full({1}, 1, DType::f64));
  Tape tape;
  Tensor y = p;
  for (int i = 0; i < 1'000'000; ++i) y = y + 1e-6;
  CHECK(tape.size() == 1'000'001);
  CHECK(y.item() == Approx(2));
  tape.backward(y);
  CHECK(p.grad().item() == 1);
}

TEST_CASE("check_numbers names the op that went wrong, forward and back") {
  const Parameter p = parameter(-1), zero = parameter(0);
  {
    Tape tape({.check_numbers = true});
    const std::string message = message_of([&] { exp(log(p)); });
    CAPTURE(message);
    CHECK(has(message, "[log]"));
    CHECK(has(message, "not finite"));
    CHECK(has(message, "tape_test.cpp:"));
  }
  Tape tape({.check_numbers = true});
  const Tensor loss = sqrt(zero);
  const std::string message = message_of([&] { tape.backward(loss); });
  CAPTURE(message);
  CHECK(has(message, "[sqrt]"));
  CHECK(has(message, "gradient"));
  CHECK(!zero.grad().defined());
}

TEST_CASE("gradients of gradients") {
  Tape tape;
  const Tensor x = tape.watch(number(2));
  const Tensor y = x * x * x;
  const Tensor wrt[] = {x};
  const Tape::GradientOptions again{.create_graph = true};
  const auto next = [&](const Tensor& of) {
    return tape.gradient(std::span(&of, 1), wrt, again)[0];
  };
  const Tensor first = next(y), second = next(first);
  CHECK(first.item() == 12);
  CHECK(second.item() == 12);
  const Tensor grown = exp(x * 0.5);
  CHECK(next(next(grown)).item() == Approx(0.25 * std::exp(1.0)));
  // An order that an op does not derive is an error, not a wrong number.
  double third = 6;
  const std::string message = message_of([&] { third = next(second).item(); });
  CHECK((message == "no error" || has(message, "gradients of this order")));
  CHECK(third == 6);
}

TEST_CASE("a gradient's norm can be part of the loss") {
  Parameter w(Tensor::from({1.0, 2.0}, {1, 2}));
  Tape tape;
  const Tensor x = tape.watch(Tensor::from({3.0, -1.0}, {1, 2}));
  const Tensor y = sum(square(linear(x, w)));  // (3 w0 - w1)^2
  const Tensor wrt[] = {x};
  const Tensor g = tape.gradient(std::span(&y, 1), wrt, {.create_graph = true})[0];
  // g = 2 u w with u = 3 w0 - w1 = 1; |g|^2 = 4 u^2 |w|^2
  tape.backward(sum(square(g)));
  CHECK(w.grad().data<double>()[0] == Approx(4 * (2 * 3 * 5 + 2 * 1)));
  CHECK(w.grad().data<double>()[1] == Approx(4 * (2 * -1 * 5 + 2 * 2)));
}

TEST_CASE("ops with several outputs, of which only some are used") {
  Tape tape;
  const Tensor x = tape.watch(Tensor::from({1.0, 2.0, 3.0, 4.0}, {4}));
  const std::vector<Tensor> parts = split(x, 2);
  const Tensor grad = tape.gradient(sum(square(parts[1])), {x})[0];
  CHECK(grad.data<double>()[0] == 0);
  CHECK(grad.data<double>()[3] == 8);
  const Tensor second = tape.gradient(sum(square(parts[1])), {parts[1]})[0];
  CHECK(second.data<double>()[0] == 6);
}

TEST_CASE("tapes nest: the innermost records, values of the outer one are constants to it") {
  const Parameter p = parameter(3);
  Tape outer;
  const Tensor a = square(p);
  {
    Tape inner;
    CHECK(Tape::current() == &inner);
    const std::size_t before = outer.size();
    const Tensor x = inner.watch(number(2));
    const Tensor y = x * a;
    CHECK(outer.size() == before);
    CHECK(inner.gradient(y, {x})[0].item() == 9);
    CHECK_THROWS_AS(inner.gradient(y, {a}), Error);
  }
  CHECK(Tape::current() == &outer);
  outer.backward(a * 2.0);
  CHECK(p.grad().item() == 12);
}

TEST_CASE("stop ends recording and keeps what was recorded") {
  const Parameter p = parameter(3);
  Tape tape;
  const Tensor y = square(p);
  tape.stop();
  CHECK(Tape::current() == nullptr);
  CHECK(square(p).ref().tape() == 0);
  tape.backward(y);
  CHECK(p.grad().item() == 6);
}

TEST_CASE("a tape keeps the value of a parameter that is changed before the walk back") {
  Parameter p = parameter(3);
  Tape tape;
  const Tensor y = square(p);
  p.mutable_value().mutable_data<double>()[0] = 100;
  tape.backward(y);
  CHECK(p.grad().item() == 6);
  CHECK(p.value().item() == 100);
}

TEST_CASE("each thread has its own current tape") {
  const Parameter p = parameter(3);
  Tape tape;
  bool none = false;
  double grad = 0;
  std::thread([&] {
    none = Tape::current() == nullptr;
    Tape own;
    const Tensor x = own.watch(number(4));
    grad = own.gradient(square(x), {x})[0].item();
  }).join();
  CHECK(none);
  CHECK(grad == 8);
  CHECK(tape.size() == 0);
}

TEST_CASE("undefined arguments are named") {
  CHECK(has(message_of([] { add(Tensor::zeros({1}), Tensor()); }), "input 1 is an undefined"));
}

TEST_CASE("a value that was rewound away is not taken for the one in its place") {
  Tape tape;
  const Tensor a = tape.watch(number(2));
  const Tape::Mark mark = tape.mark();
  const Tensor stale = a * 3.0;
  tape.rewind(mark);
  const Tensor other = exp(a);
  CHECK(tape.owns(other));
  CHECK(!tape.owns(stale));
  CHECK(has(message_of([&] { tape.backward(stale); }), "recorded on another tape"));
}

TEST_CASE("a parameter that changes while a tape lives is read anew, and gets both gradients") {
  Parameter w = parameter(2);
  Tape tape;
  const Tensor before = square(w);
  w.set_value(number(5));
  const Tensor after = square(w);
  CHECK(before.item() == 4);
  CHECK(after.item() == 25);
  tape.backward(before + after);
  CHECK(w.grad().item() == 14);
}
