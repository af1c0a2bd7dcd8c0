// scan(): cells of a user, the plain loop as a twin, what it refuses.

#include <unroll/layers/linear.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/index.h>
#include <unroll/ops/matmul.h>

#include "../catch.h"
#include "../layers/sequences.h"

using namespace unroll;
using namespace sequences;

namespace {

// Cells as a user writes them.

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
  cells.push_back(
      {"a parameter used twice", 1, {twice, in}, {}, [twice, in](auto& x, auto& s, auto) -> Output {
         const Tensor once = tanh(linear(s[0], twice) + linear(x, in));
         const Tensor h = sigmoid(linear(once, twice)) * 2.0 - 1.0;
         return {h, {h}};
       }});

  cells.push_back({"captured tensors",
                   1,
                   {in},
                   {normal({hidden}, 14, dtype), normal({batch, hidden}, 15, dtype)},
                   [in](auto& x, auto& s, auto captured) -> Output {
                     const Tensor h = tanh(linear(x, in) * captured[0] + s[0] * captured[1]);
                     return {h * captured[0], {h}};
                   }});

  cells.push_back(
      {"three states, one unchanged", 3, {in}, {}, [in](auto& x, auto& s, auto) -> Output {
         const Tensor h = tanh(linear(x, in) + s[0] * s[2]);
         const Tensor slow = s[1] * 0.9 + h * 0.1;
         return {h - slow, {h, slow, s[2]}};
       }});

  // A token shift: the state is the step before, which the walk back reads too.
  cells.push_back(
      {"a next state of the input alone", 1, {in}, {}, [in](auto& x, auto& s, auto) -> Output {
         const Tensor next = tanh(linear(x, in));
         return {next * next * s[0], {next}};
       }});

  cells.push_back({"a choice by comparison", 1, {in}, {}, [in](auto& x, auto& s, auto) -> Output {
                     const Tensor sum = linear(x, in) + s[0];
                     const Tensor h = where(greater(sum, 0.0), tanh(sum), sum * 0.1);
                     return {where(less(linear(x, in), s[0]), h, s[0]), {h}};
                   }});

  cells.push_back(
      {"one value as output and both states", 2, {in}, {}, [in](auto& x, auto& s, auto) -> Output {
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
                  return scan(
                      [&](const Tensor& x, const State& s) { return one.call(x, s, captured); },
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
  const std::string message = message_of<Error>([&] {
    scan(reads, xs, {Tensor::zeros({batch, 1}, DType::f64)});
  });
  CAPTURE(message);
  CHECK(has(message, "data"));
  CHECK(Tape::current() == &tape);
  CHECK(
      scan(reads, xs, {Tensor::zeros({batch, 1}, DType::f64)}, {.unrolled = true}).output.shape() ==
      xs.shape());
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
