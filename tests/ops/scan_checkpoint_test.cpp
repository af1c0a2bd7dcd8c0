// scan() with checkpoint_every: the same values and gradients in a fraction of the memory.

#include <unroll/graph/dry_run.h>
#include <unroll/graph/memory.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/loss.h>

#include "../catch.h"
#include "user_cells.h"

using namespace unroll;
using namespace sequences;

TEST_CASE("a scan with checkpoints gives what one without gives, for cells of a user") {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const UserCell& one : user_cells(dtype))
      for (const bool reverse : {false, true})
        for (const bool with_lengths : {false, true})
          for (const std::int64_t every : {1, 2, 3, 4, 9}) {
            CAPTURE(one.name, reverse, with_lengths, every, to_string(dtype));
            ScanOptions options{.lengths = with_lengths ? unsorted() : Tensor(),
                                .reverse = reverse};
            const Result whole = run_cell(one, steps, batch, dtype, options);
            options.checkpoint_every = every;
            const Result parts = run_cell(one, steps, batch, dtype, options);
            for (std::size_t i = 0; i < whole.values.size(); ++i)
              CHECK(same_bits(whole.values[i], parts.values[i]));
            CHECK(difference(whole, parts) < (dtype == DType::f64 ? 1e-12 : 3e-5));
          }
}

TEST_CASE("layers pass checkpoint_every on") {
  Generator g(3);
  GRU layer({.input_size = 3, .hidden_size = 5, .num_layers = 2, .bidirectional = true}, g);
  layer.to(DType::f64);
  const Tensor x = normal({13, batch, 3}, 1);
  const auto run = [&](std::int64_t every) {
    return differentiate(
        [&](std::span<const Tensor> in) {
          return layer(in[0], {.lengths = unsorted(), .checkpoint_every = every});
        },
        std::span(&x, 1), layer.parameters());
  };
  CHECK(difference(run(0), run(4)) < 1e-12);
}

TEST_CASE(
    "a long scan with checkpoints needs an eighth of the memory beside its output, as predicted") {
  Generator g(3);
  const std::int64_t T = 4096, rows = 2;
  LSTM layer({.input_size = 4, .hidden_size = 39}, g);
  const Tensor x = normal({T, rows, 4}, 1, DType::f32);
  const auto step = [&](std::int64_t every) {
    for (Parameter p : layer.parameters()) p.zero_grad();
    Tape tape;
    tape.backward(mean(square(layer(x, {.checkpoint_every = every}).state[0])));
  };
  // Beyond the output, and what was there before: inputs, parameters, gradients.
  const std::int64_t output = T * rows * 39 * 4;
  const auto peak = [&](std::int64_t every) {
    step(every);
    const std::int64_t before = memory_stats().live;
    reset_peak_memory();
    step(every);
    return static_cast<double>(memory_stats().peak - before - output);
  };
  const double whole = peak(0), parts = peak(32);
  CAPTURE(whole, parts);
  CHECK(parts * 8 < whole);
  reset_peak_memory();
  step(32);
  const auto real = static_cast<double>(memory_stats().peak);
  CHECK(static_cast<double>(predict_memory([&] { step(32); }).peak) == Approx(real).epsilon(0.05));
}

TEST_CASE("checkpoints say what they cannot do") {
  const Tensor xs = normal({steps, batch, inputs}, 1);
  const State h{Tensor::zeros({batch, inputs}, DType::f64)};
  const Cell echo = [](const Tensor& x, const State& s) -> Output { return {x, s}; };
  CHECK(has(message_of<Error>([&] { scan(echo, xs, h, {.checkpoint_every = -1}); }),
            "checkpoint_every is -1"));
  Generator generator(4);
  const Cell drops = [&](const Tensor& x, const State& s) -> Output {
    return {dropout(x, 0.5, generator), s};
  };
  CHECK(has(message_of<Error>([&] { scan(drops, xs, h, {.checkpoint_every = 2}); }), "random"));
}
