#pragma once

// Cells as a user writes them, for the tests of scan.

#include <unroll/layers/linear.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>

#include "../layers/sequences.h"

namespace sequences {

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

inline std::vector<UserCell> user_cells(DType dtype, std::int64_t rows = batch) {
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
                   {normal({hidden}, 14, dtype), normal({rows, hidden}, 15, dtype)},
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

// Everything that a cell's scan gives, over T steps of a batch of rows.
inline Result run_cell(const UserCell& one, std::int64_t T, std::int64_t rows, DType dtype,
                       const ScanOptions& options) {
  std::vector<Tensor> in{normal({T, rows, inputs}, 1, dtype)};
  for (std::size_t k = 0; k < one.states; ++k) in.push_back(normal({rows, hidden}, 20 + k, dtype));
  in.insert(in.end(), one.captured.begin(), one.captured.end());
  return differentiate(
      [&](std::span<const Tensor> args) {
        const auto captured = args.subspan(1 + one.states);
        const State state(args.begin() + 1,
                          args.begin() + 1 + static_cast<std::ptrdiff_t>(one.states));
        return scan([&](const Tensor& x, const State& s) { return one.call(x, s, captured); },
                    args[0], state, options);
      },
      in, one.parameters);
}

}  // namespace sequences
