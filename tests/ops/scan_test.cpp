// scan(): cells of a user, the plain loop as a twin, what it refuses.

#include <unroll/graph/memory.h>
#include <unroll/graph/program.h>
#include <unroll/layers/linear.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/index.h>
#include <unroll/ops/matmul.h>

#include "../catch.h"
#include "user_cells.h"

using namespace unroll;
using namespace sequences;

TEST_CASE("scan and the plain loop agree for cells of a user") {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const UserCell& one : user_cells(dtype))
      for (const bool reverse : {false, true})
        for (const bool with_lengths : {false, true}) {
          CAPTURE(one.name, reverse, with_lengths, to_string(dtype));
          ScanOptions options{.lengths = with_lengths ? unsorted() : Tensor(), .reverse = reverse};
          const Result fast = run_cell(one, steps, batch, dtype, options);
          options.unrolled = true;
          const Result slow = run_cell(one, steps, batch, dtype, options);
          CHECK(difference(fast, slow) < (dtype == DType::f64 ? 1e-12 : 3e-5));
        }
}

TEST_CASE("scan in a program keeps what it has bound, and gives the bits of recording") {
  const std::int64_t T = 37;
  for (const DType dtype : {DType::f32, DType::f64})
    for (const std::int64_t rows : {1, 3, 30}) {
      Generator g(2);
      Tensor lengths = Tensor::empty({rows}, DType::i64);
      for (std::int64_t& one : lengths.mutable_data<std::int64_t>()) one = g.below(T + 1);
      for (const UserCell& one : user_cells(dtype, rows))
        for (const bool reverse : {false, true})
          for (const bool masked : {false, true}) {
            CAPTURE(one.name, reverse, masked, rows, to_string(dtype));
            // Inputs: xs, states, what the test captures, lengths.
            const std::size_t captured = 1 + one.states, last = captured + one.captured.size();
            const TraceFunction f = [&](std::span<const Tensor> in) -> std::vector<Tensor> {
              const Cell cell = [&](const Tensor& x, const State& s) {
                return one.call(x, s, in.subspan(captured, one.captured.size()));
              };
              const Output out =
                  scan(cell, in[0], State(in.begin() + 1, in.begin() + 1 + one.states),
                       {.lengths = masked ? in[last] : Tensor(), .reverse = reverse});
              Tensor loss = mean(square(out.output));
              for (const Tensor& state : out.state) loss = loss + mean(state);
              std::vector<Tensor> all{loss, out.output};
              all.insert(all.end(), out.state.begin(), out.state.end());
              return all;
            };
            const auto inputs_of = [&] {
              std::vector<Tensor> in{g.normal({T, rows, inputs}, 0, 1, dtype)};
              for (std::size_t k = 0; k < one.states; ++k)
                in.push_back(g.normal({rows, hidden}, 0, 1, dtype));
              for (const Tensor& like : one.captured)
                in.push_back(g.normal(like.shape(), 0, 1, dtype));
              if (masked) in.push_back(lengths);
              return in;
            };
            if (one.parameters.empty()) continue;
            Program program = trace_gradient(f, inputs_of());
            std::vector<std::pair<Tensor, Tensor>> held;  // of the run before, and copies of it
            for (int run = 0; run < 3; ++run) {
              const std::vector<Tensor> in = inputs_of();
              for (Parameter p : program.parameters()) {
                p.set_value(g.normal(p.shape(), 0, 0.5, dtype));
                p.zero_grad();
              }
              Tape tape;
              std::vector<Tensor> expected = f(in);
              tape.backward(expected[0]);
              for (const Parameter& p : program.parameters()) expected.push_back(p.grad());
              tape.stop();
              const std::span<const Tensor> got = program(in);
              REQUIRE(got.size() == expected.size());
              for (std::size_t i = 0; i < got.size(); ++i) {
                INFO("run " << run << ", result " << i << ", off by "
                            << difference(got[i], expected[i]));
                CHECK((got[i].defined() ? same_bits(got[i], expected[i]) : !expected[i].defined()));
              }
              for (const auto& [tensor, copy] : held) CHECK(same_bits(tensor, copy));
              held.clear();
              for (const Tensor& tensor : got)
                if (tensor.defined()) held.emplace_back(tensor, tensor.clone());
            }
          }
    }
}

namespace {

// Twice its input; counts how often it is bound.
struct CountedTwice : OpRecord<CountedTwice> {
  int* bound;
  explicit CountedTwice(int* counter) : bound(counter) {}

  const char* name() const override { return "counted_twice"; }
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[0].spec(); }
  void forward(Args in, std::span<Tensor> out) const override {
    for (std::int64_t i = 0; i < in[0].numel(); ++i)
      out[0].mutable_ptr<float>()[i] = 2 * in[0].ptr<float>()[i];
  }
  const Kernel* bind(Args in, std::span<const bool> fixed, Arena& arena) const override {
    ++*bound;
    return Op::bind(in, fixed, arena);
  }
  void vjp(Vjp& v) const override { v.result[0] = apply(*this, {&v.grads[0]}, Where()); }
};

}  // namespace

TEST_CASE("a program's scan binds its calls in the first run alone") {
  Generator g(3);
  const Linear from_x(inputs, hidden, g), from_h(hidden, hidden, g);
  int bound = 0;
  const Cell cell = [&](const Tensor& x, const State& s) -> Output {
    const Tensor sum = from_x(x) + from_h(s[0]);
    const Tensor h = tanh(apply(CountedTwice(&bound), {&sum}, Where::current()));
    return {h, {h}};
  };
  const Tensor xs = g.normal({steps, batch, inputs}, 0, 1), zero = Tensor::zeros({batch, hidden});
  Program program = trace_gradient(
      [&](std::span<const Tensor> in) -> std::vector<Tensor> {
        return {mean(square(scan(cell, in[0], {zero}).output))};
      },
      {&xs, 1});
  program({xs});
  CHECK(bound == 2);  // forward and back
  const std::int64_t live = memory_stats().live;
  for (int i = 0; i < 3; ++i) program({xs});
  CHECK(bound == 2);
  CHECK(memory_stats().live == live);
}

TEST_CASE("an empty cell and an undefined state are told so") {
  const Tensor xs = Tensor::zeros({4, 2, 3}), h = Tensor::zeros({2, 4});
  const Cell empty, keeps = [](const Tensor&, const State&s) -> Output {
    return {s[0] * 1.0, {s[0] * 1.0}};
  };
  for (const ScanOptions& options :
       {ScanOptions{}, ScanOptions{.checkpoint_every = 2}, ScanOptions{.unrolled = true}}) {
    CHECK(has(message_of([&] { scan(empty, xs, {h}, options); }), "the cell is an empty function"));
    const std::string message = message_of([&] { scan(keeps, xs, {Tensor()}, options); });
    CHECK(has(message, "tensor 0 of the initial state is undefined"));
    CHECK(has(message, "scan_test.cpp"));
    CHECK_THROWS_AS(scan(keeps, Tensor(), {h}, options), Error);
  }
  const ScanMember members[] = {{keeps, {h}}, {empty, {h}}};
  CHECK(has(message_of([&] { scan_parallel(members, xs); }), "the cell is an empty function"));
}

TEST_CASE("scan goes through chunks of steps, and a shorter one at the end") {
  const std::int64_t T = 37, rows = 30;  // no number of steps near 256 / 30 divides 37
  Tensor lengths = Tensor::empty({rows}, DType::i64);
  for (std::int64_t b = 0; b < rows; ++b)
    lengths.mutable_data<std::int64_t>()[static_cast<std::size_t>(b)] = (b * 7) % (T + 1);
  for (const UserCell& one : user_cells(DType::f64, rows))
    for (const bool reverse : {false, true})
      for (const Tensor& counts : {Tensor(), lengths}) {
        CAPTURE(one.name, reverse, counts.defined());
        ScanOptions options{.lengths = counts, .reverse = reverse};
        const Result fast = run_cell(one, T, rows, DType::f64, options);
        options.unrolled = true;
        CHECK(difference(fast, run_cell(one, T, rows, DType::f64, options)) < 1e-9);
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

TEST_CASE("gradients take the memory of what was kept for them, unless it is needed again") {
  Generator g(5);
  const LSTMCell cell({.input_size = 24, .hidden_size = 32}, g);
  const Tensor xs = normal({40, 8, 24}, 1, DType::f32);
  const std::vector<Parameter> parameters = cell.parameters();
  const auto run = [&](Tape& tape) {
    return sum(square(scan([&](const Tensor& x, const State& s) { return cell(x, s); },
                           tape.watch(xs), cell.initial_state(8, DType::f32))
                          .output));
  };
  const auto grads = [&] {
    std::vector<Tensor> all;
    for (Parameter p : parameters) {
      all.push_back(p.grad().clone());
      p.zero_grad();
    }
    return all;
  };
  const auto peak = [&](bool retain) {
    Tape tape;
    const Tensor loss = run(tape);
    reset_peak_memory();
    tape.backward(loss, {.retain = retain});
    return memory_stats().peak;
  };
  for (Parameter p : parameters) p.zero_grad();
  std::int64_t kept = 0, taken = 0;
  for (int i = 0; i < 2; ++i) {
    kept = peak(true);
    (void)grads();
    taken = peak(false);
    if (i == 0) (void)grads();
  }
  const std::vector<Tensor> last = grads();
  const std::int64_t gates = 40 * 8 * 4 * 32 * 4;  // bytes
  CHECK(taken <= kept - gates * 9 / 10);
  // A tape that is kept can be walked again, to the same gradients.
  Tape tape;
  const Tensor loss = run(tape);
  for (const bool retain : {true, true, false}) {
    tape.backward(loss, {.retain = retain});
    const std::vector<Tensor> again = grads();
    for (std::size_t i = 0; i < last.size(); ++i) CHECK(same_bits(again[i], last[i]));
  }
}

TEST_CASE("a scan's gradient has no gradient, and says so; the plain loop's has one") {
  Generator g(4);
  const Tensor xs = g.normal({4, 2, 3}, 0, 1), start = Tensor::zeros({2, 3});
  const Cell cell = [](const Tensor& x, const State& s) -> Output {
    const Tensor h = tanh(x + s[0]);
    return {h, {h}};
  };
  const auto second = [&](const ScanOptions& options) {
    Tape tape;
    const Tensor x = tape.watch(xs);
    const Tensor loss = sum(square(scan(cell, x, {start}, options).output));
    const Tensor first =
        tape.gradient({&loss, 1}, {&x, 1}, Tape::GradientOptions{.create_graph = true})[0];
    // Another term, beside which a missing one would not be noticed.
    return tape.gradient(sum(square(first)) + sum(x), {x})[0];
  };
  for (const std::int64_t every : {0, 2})
    CHECK(has(message_of([&] { second({.checkpoint_every = every}); }), "unrolled"));
  const Tensor right = second({.unrolled = true});
  CHECK(std::abs(right.data<float>()[0] - 1) > 1e-3);
}
