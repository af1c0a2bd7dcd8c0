// scan_parallel() and scan_stack(): what each scan gives by itself, on any number of threads.

#include <unroll/ops/dropout.h>

#include "../catch.h"
#include "user_cells.h"

using namespace unroll;
using namespace sequences;

namespace {

Cell bound(const UserCell& one, std::span<const Tensor> captured) {
  return [&one, captured](const Tensor& x, const State& s) { return one.call(x, s, captured); };
}

// A result from several: the first output that there is, and all states.
Output joined(const std::vector<Output>& outputs) {
  Output all;
  for (const Output& one : outputs) {
    if (one.output.defined())
      all.output = all.output.defined() ? concat({all.output, one.output}, 2) : one.output;
    all.state.insert(all.state.end(), one.state.begin(), one.state.end());
  }
  return all;
}

Result on_threads(int count, const RecurrentLayer& layer, const Tensor& x,
                  const RecurrentCall& call) {
  set_threads(count);
  Result result = differentiate([&](std::span<const Tensor> in) { return layer(in[0], call); },
                                std::span(&x, 1), layer.parameters());
  set_threads(1);
  return result;
}

void check_same_bits(const Result& a, const Result& b) {
  for (std::size_t i = 0; i < a.values.size(); ++i) CHECK(same_bits(a.values[i], b.values[i]));
  for (std::size_t i = 0; i < a.grads.size(); ++i) CHECK(same_bits(a.grads[i], b.grads[i]));
}

}  // namespace

TEST_CASE("scans of the same sequence, together, give what each gives alone") {
  const auto cells = user_cells(DType::f64);
  for (std::size_t i = 0; i + 1 < cells.size(); ++i) {
    CAPTURE(cells[i].name, cells[i + 1].name);
    std::vector<Tensor> in{normal({steps, batch, inputs}, 1)};
    for (std::size_t k = 0; k < cells[i].states + cells[i + 1].states; ++k)
      in.push_back(normal({batch, hidden}, 20 + k));
    std::vector<Parameter> parameters = cells[i].parameters;
    if (i != 0)  // a parameter of both would be counted twice
      for (const Parameter& p : cells[i + 1].parameters) parameters.push_back(p);
    const auto run = [&](bool together) {
      return differentiate(
          [&](std::span<const Tensor> args) {
            std::vector<ScanMember> members;
            auto next = args.begin() + 1;
            for (std::size_t m = i; m < i + 2; ++m) {
              const auto states = static_cast<std::ptrdiff_t>(cells[m].states);
              members.push_back({.cell = bound(cells[m], cells[m].captured),
                                 .state = State(next, next + states),
                                 .reverse = m % 2 == 1});
              next += states;
            }
            const ScanOptions options{.lengths = unsorted()};
            if (together) {
              set_threads(2);  // on one thread each would run by itself
              const Output all = joined(scan_parallel(members, args[0], options));
              set_threads(1);
              return all;
            }
            std::vector<Output> outputs;
            for (const ScanMember& one : members)
              outputs.push_back(scan(one.cell, args[0], one.state,
                                     {.lengths = unsorted(), .reverse = one.reverse}));
            return joined(outputs);
          },
          in, parameters);
    };
    CHECK(difference(run(true), run(false)) < 1e-12);
  }
}

TEST_CASE("a stack of scans gives what one after the other gives") {
  Generator g(5);
  std::vector<std::unique_ptr<LSTMCell>> cells;
  for (const std::int64_t size : {3, 4, 4, 4})
    cells.push_back(
        std::make_unique<LSTMCell>(LSTMCellOptions{.input_size = size, .hidden_size = 4}, g));
  for (auto& cell : cells) cell->to(DType::f64);
  const Tensor x = normal({7, batch, 3}, 1);
  // All of them trained; those above alone; none, so that x alone is.
  for (const std::size_t frozen : {0, 2, 4})
    for (const bool reverse : {false, true}) {
      CAPTURE(frozen, reverse);
      std::vector<Parameter> trained;
      for (std::size_t i = 0; i < cells.size(); ++i)
        for (Parameter p : cells[i]->parameters()) {
          p.set_trainable(i >= frozen);
          if (i >= frozen) trained.push_back(p);
        }
      for (const bool watch : {true, false}) {
        if (!watch && trained.empty()) continue;
        const auto run = [&](bool together) {
          const auto f = [&](std::span<const Tensor> in) {
            std::vector<ScanMember> members;
            for (const auto& cell : cells)
              members.push_back({[&](const Tensor& s, const State& h) { return (*cell)(s, h); },
                                 cell->initial_state(batch, DType::f64)});
            const Tensor& from = watch ? in[0] : x;
            const ScanOptions options{.lengths = unsorted(), .reverse = reverse};
            if (together) {
              set_threads(2);
              const Output all = joined(scan_stack(members, from, options));
              set_threads(1);
              return all;
            }
            std::vector<Output> outputs;
            for (const ScanMember& one : members) {
              const Tensor below = outputs.empty() ? from : outputs.back().output;
              if (!outputs.empty()) outputs.back().output = Tensor();
              outputs.push_back(scan(one.cell, below, one.state, options));
            }
            return joined(outputs);
          };
          return differentiate(f, watch ? std::span(&x, 1) : std::span<const Tensor>(), trained);
        };
        CHECK(difference(run(true), run(false)) < 1e-12);
      }
    }
}

TEST_CASE("layers and directions side by side give the bits of one thread") {
  Generator g(3);
  const Tensor x = normal({40, 16, 96}, 1, DType::f32);
  Tensor lengths = Tensor::empty({16}, DType::i64);
  for (std::int64_t b = 0; b < 16; ++b)
    lengths.mutable_data<std::int64_t>()[static_cast<std::size_t>(b)] = (b * 11) % 41;
  const LSTM stack({.input_size = 96, .hidden_size = 96, .num_layers = 3}, g);
  const GRU both({.input_size = 96, .hidden_size = 96, .bidirectional = true}, g);
  const RNN small({.input_size = 96, .hidden_size = 32, .num_layers = 2}, g);
  for (const RecurrentLayer* layer :
       {static_cast<const RecurrentLayer*>(&stack), static_cast<const RecurrentLayer*>(&both),
        static_cast<const RecurrentLayer*>(&small)})
    for (const Tensor& counts : {Tensor(), lengths}) {
      CAPTURE(layer->describe(), counts.defined());
      check_same_bits(on_threads(1, *layer, x, {.lengths = counts}),
                      on_threads(2, *layer, x, {.lengths = counts}));
    }
}

TEST_CASE("memory of scans side by side does not grow from step to step") {
  Generator g(3);
  const LSTM layer({.input_size = 96, .hidden_size = 96, .num_layers = 2}, g);
  const Tensor x = normal({40, 16, 96}, 1, DType::f32);
  const auto step = [&] { on_threads(2, layer, x, {}); };
  for (int i = 0; i < 3; ++i) step();
  const MemoryStats before = memory_stats();
  for (int i = 0; i < 5; ++i) step();
  const MemoryStats after = memory_stats();
  CHECK(after.live == before.live);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // nothing is cached there
  CHECK(after.system_allocations == before.system_allocations);
#endif
}

TEST_CASE("cells in a group may draw random numbers, then each runs as a loop") {
  Generator g(4);
  const Cell drops = [&](const Tensor& x, const State& s) -> Output {
    return {dropout(x, 0.5, g), {s[0] + x}};
  };
  const Tensor xs = Tensor::full({5, 2, 40}, 1.0);
  const std::vector<ScanMember> members{{drops, {Tensor::zeros({2, 40})}},
                                        {drops, {Tensor::zeros({2, 40})}}};
  const auto side = scan_parallel(members, xs);
  CHECK(difference(side[0].output, side[1].output) > 0);
  CHECK(difference(side[0].output.row(0), side[0].output.row(1)) > 0);
  const auto stacked = scan_stack(members, xs);
  CHECK_FALSE(stacked[0].output.defined());
  CHECK(stacked[1].output.shape() == xs.shape());
}

TEST_CASE("a stack runs in one direction") {
  const Cell echo = [](const Tensor& x, const State& s) -> Output { return {x, s}; };
  const Tensor xs = normal({steps, batch, inputs}, 1);
  const State h{Tensor::zeros({batch, inputs}, DType::f64)};
  const std::vector<ScanMember> members{{echo, h}, {echo, h, true}};
  CHECK(has(message_of<Error>([&] { scan_stack(members, xs); }), "different directions"));
  CHECK(scan_stack({}, xs).empty());
}
