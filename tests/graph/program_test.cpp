#include <unroll/graph/memory.h>
#include <unroll/graph/memory_plan.h>
#include <unroll/graph/program.h>
#include <unroll/layers/dropout.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/custom.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

using Tensors = std::vector<Tensor>;

// f recorded on a tape and walked back: the outputs, then the gradients of the parameters.
Tensors recorded(const TraceFunction& f, const Tensors& inputs,
                 const std::vector<Parameter>& parameters) {
  for (Parameter parameter : parameters) parameter.zero_grad();
  Tape tape;
  Tensors results = f(inputs);
  tape.backward(results[0]);
  for (const Parameter& parameter : parameters) results.push_back(parameter.grad());
  return results;
}

// Replays give the bits that recording gives, for one input after the other.
void check_replays(const TraceFunction& f, const std::vector<Tensors>& inputs) {
  Program program = trace_gradient(f, inputs[0]);
  for (const Tensors& in : inputs) {
    const Tensors expected = recorded(f, in, program.parameters());
    const std::span<const Tensor> got = program(in);
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      INFO("result " << i);
      CHECK(same_bits(got[i], expected[i]));
    }
  }
}

}  // namespace

TEST_CASE("planned blocks that live at one moment do not overlap") {
  Generator g(3);
  std::vector<PlannedBlock> blocks;
  for (int i = 0; i < 200; ++i) {
    const auto first = static_cast<std::size_t>(g.below(100));
    blocks.push_back({static_cast<std::size_t>(g.below(5000)), first,
                      first + static_cast<std::size_t>(g.below(20))});
  }
  const std::size_t total = plan_offsets(blocks);
  std::size_t sum = 0, most = 0;
  for (const PlannedBlock& a : blocks) {
    CHECK(a.offset % 64 == 0);
    CHECK(a.offset + a.bytes <= total);
    sum += a.bytes;
    for (const PlannedBlock& b : blocks)
      if (&a != &b && a.first <= b.last && b.first <= a.last)
        CHECK((a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset));
  }
  for (std::size_t moment = 0; moment < 120; ++moment) {
    std::size_t live = 0;
    for (const PlannedBlock& one : blocks)
      if (one.first <= moment && moment <= one.last) live += one.bytes;
    most = std::max(most, live);
  }
  CHECK(total >= most);
  CHECK(total < sum / 3);
}

TEST_CASE("a program gives the bits that recording gives: a chain of layers") {
  Generator g(1);
  const Linear first(5, 7, g), second(7, 3, g);
  check_replays(
      [&](std::span<const Tensor> in) -> Tensors {
        const Tensor y = second(tanh(first(in[0])));
        return {mse_loss(y, in[1]), y};
      },
      {{g.normal({4, 5}, 0, 1), g.normal({4, 3}, 0, 1)},
       {g.normal({4, 5}, 0, 2), g.normal({4, 3}, 0, 1)}});
}

TEST_CASE("a program gives the bits that recording gives: recurrent layers and views") {
  Generator g(1);
  LSTM lstm({.input_size = 4, .hidden_size = 6, .num_layers = 2, .bidirectional = true}, g);
  const Linear head(12, 3, g);
  const auto input = [&](int seed) {
    Tensor labels = Tensor::empty({5, 2}, DType::i64);
    Generator draw(seed);
    for (std::int64_t& label : labels.mutable_data<std::int64_t>()) label = draw.below(3);
    return Tensors{draw.normal({5, 2, 4}, 0, 1), labels};
  };
  check_replays(
      [&](std::span<const Tensor> in) -> Tensors {
        const Output out = lstm(in[0]);
        const Tensor flat = reshape(head(out.output), {10, 3});
        return {cross_entropy(flat, reshape(in[1], {10})), out.state[0],
                reshape(select(out.output, 0, 4), {24})};
      },
      {input(1), input(2), input(3)});
}

TEST_CASE("a program gives the bits that recording gives: a Transformer") {
  Generator g(1);
  TransformerEncoder encoder({.d_model = 8,
                              .nhead = 2,
                              .num_layers = 2,
                              .activation = FeedForward::gelu,
                              .norm_first = true},
                             g);
  check_replays(
      [&](std::span<const Tensor> in) -> Tensors {
        return {mean(square(encoder(in[0], {.causal = true}).output))};
      },
      {{g.normal({6, 3, 8}, 0, 1)}, {g.normal({6, 3, 8}, 0, 1)}});
}

TEST_CASE("a program follows its parameters, also where it keeps their weights laid out") {
  Generator g(1);
  Linear layer(64, 96, g);
  const Tensor x = g.normal({8, 64}, 0, 1);
  const TraceFunction f = [&](std::span<const Tensor> in) -> Tensors { return {layer(in[0])}; };
  Program program = trace(f, {&x, 1}, {.keep_weights = true});
  REQUIRE(program.parameters().size() == 2);
  CHECK(same_bits(program({x})[0], layer(x)));
  layer.weight.set_value(g.normal({96, 64}, 0, 1));
  CHECK(same_bits(program({x})[0], layer(x)));
  layer.weight.mutable_value().mutable_data<float>()[7] += 1;
  CHECK(same_bits(program({x})[0], layer(x)));
}

TEST_CASE("a program follows frozen parameters too, and gives them no gradient") {
  Generator g(1);
  Linear frozen(4, 4, g), trained(4, 1, g);
  for (Parameter parameter : frozen.parameters()) parameter.set_trainable(false);
  const Tensor x = g.normal({3, 4}, 0, 1);
  const auto f = [&](std::span<const Tensor> in) -> Tensors {
    return {mean(square(trained(tanh(frozen(in[0])))))};
  };
  Program program = trace_gradient(f, {&x, 1});
  for (int i = 0; i < 2; ++i) {
    const double expected = f({&x, 1})[0].item();
    const std::span<const Tensor> got = program({x});
    CHECK(got[0].item() == expected);
    REQUIRE(got.size() == 1 + program.parameters().size());
    for (std::size_t k = 0; k < program.parameters().size(); ++k)
      CHECK(got[1 + k].defined() == program.parameters()[k].trainable());
    frozen.weight.set_value(g.normal({4, 4}, 0, 1));
  }
}

TEST_CASE("a program lets go of what ops allocated as soon as nobody reads it") {
  const Tensor x = Tensor::full({1 << 16}, 0.5);
  const auto doubled = [](const Tensor& y) {
    return custom_op("doubled", {y}, [](std::span<const Tensor> in) { return in[0] + in[0]; }, {});
  };
  Program program = trace(
      [&](std::span<const Tensor> in) -> Tensors {
        Tensor y = in[0];
        for (int i = 0; i < 20; ++i) y = tanh(doubled(y));
        return {y};
      },
      {&x, 1});
  program({x});
  reset_peak_memory();
  const std::int64_t before = memory_stats().live;
  program({x});
  CHECK(memory_stats().peak - before < 4 * (1 << 18));
}

TEST_CASE("outputs that somebody holds are not overwritten, others use their memory again") {
  Generator g(1);
  const Tensor a = g.normal({10}, 0, 1), b = g.normal({10}, 0, 1);
  Program program = trace(
      [](std::span<const Tensor> in) -> Tensors {
        return {in[0] * 2.0, reshape(in[0] + 1.0, {5, 2})};
      },
      {&a, 1});
  const Tensor held = program({a})[0];
  const Tensor view = program({a})[1];
  const Tensor expected = held.clone(), expected_view = view.clone();
  program({b});
  CHECK(same_bits(held, expected));
  CHECK(same_bits(view, expected_view));
}

TEST_CASE("memory of a program is planned, and a run asks for none") {
  const Tensor x = Tensor::full({1000}, 0.5);
  Program program = trace(
      [](std::span<const Tensor> in) -> Tensors {
        Tensor y = in[0];
        for (int i = 0; i < 100; ++i) y = tanh(y);
        return {y};
      },
      {&x, 1});
  CHECK(program.size() == 100);
  CHECK(program.planned_bytes() < 3 * 4096);
  program({x});
  const MemoryStats before = memory_stats();
  program({x});
  CHECK(memory_stats().system_allocations == before.system_allocations);
  CHECK(memory_stats().allocations == before.allocations);
}

TEST_CASE("each run draws what recording would draw, from the same generators") {
  Generator g(1), one(3), two(3), own(4);
  const Tensor x = g.normal({5, 7}, 0, 1), ones = Tensor::full({5, 1}, 1, DType::f32);
  const auto f = [&](Generator& from) {
    return [&](std::span<const Tensor> in) -> Tensors {
      const Tensor h = dropout(in[0], 0.5, from);
      return {dropout(h + dropout(ones, 0.3, own), 0.2, from)};
    };
  };
  Program program = trace(f(two), {&x, 1}, {.keep_weights = true});
  CHECK(program.draws());
  CHECK(two.position() == 0);
  Tensor last;
  for (int run = 0; run < 4; ++run) {
    const std::uint64_t position = own.position();
    const Tensor expected = f(one)({&x, 1})[0];
    own.seek(position);
    const Tensor got = program({x})[0];
    CHECK(same_bits(got, expected));
    CHECK(two.position() == one.position());
    CHECK(!(last.defined() && same_bits(got, last)));
    last = got;
  }
  two = Generator(9);
  own = Generator(4);
  Generator fresh(9);
  const Tensor got = program({x})[0];
  own = Generator(4);
  CHECK(same_bits(got, f(fresh)({&x, 1})[0]));
}

TEST_CASE("a program draws on when a generator that it was traced with is gone") {
  const Tensor x = Tensor::full({100}, 1, DType::f32);
  Program program = [&] {
    Generator g(1);
    return trace([&](std::span<const Tensor> in) -> Tensors { return {dropout(in[0], 0.5, g)}; },
                 {&x, 1});
  }();
  const Tensor first = program({x})[0];
  CHECK(!same_bits(first, program({x})[0]));
}

TEST_CASE("what cannot be frozen is refused, with a reason") {
  Generator g(1);
  const Tensor x = g.normal({3, 4}, 0, 1);
  const auto message = [&](const TraceFunction& f) {
    return message_of([&] { trace(f, {&x, 1}); });
  };
  CHECK(has(message([](std::span<const Tensor> in) -> Tensors {
              if (in[0].data<float>()[0] > 0) return {in[0] * 2.0};
              return {in[0]};
            }),
            "was read while tracing"));
  CHECK(has(message([&](std::span<const Tensor> in) -> Tensors {
              return {in[0] * g.normal({3, 4}, 0, 1)};
            }),
            "drawn while tracing"));
  Tape outer;
  const Tensor recorded = outer.watch(x);
  CHECK(has(message([&](std::span<const Tensor> in) -> Tensors { return {in[0] + recorded}; }),
            "another tape"));
  CHECK(has(message([&](std::span<const Tensor>) -> Tensors { return {x}; }), "does not depend"));
  Program program =
      trace([](std::span<const Tensor> in) -> Tensors { return {in[0] * 2.0}; }, {&x, 1});
  CHECK(has(message_of([&] { program({x.viewed({4, 3})}); }), "traced as"));
  CHECK(has(message_of([&] { program({x, x}); }), "2 inputs for 1"));
  CHECK(has(message_of([&] { program({recorded}); }), "recorded on a tape"));
  CHECK(has(
      message_of([&] {
        trace_gradient([](std::span<const Tensor> in) -> Tensors { return {sum(in[0])}; }, {&x, 1});
      }),
      "no trainable parameter"));
}

TEST_CASE("a function that is empty and a program that was moved from are told so") {
  const Tensor x = Tensor::full({3}, 2);
  CHECK(has(message_of([&] { trace({}, {&x, 1}); }), "the function is empty"));
  CHECK(has(message_of([&] { trace_gradient({}, {&x, 1}); }), "the function is empty"));
  Program first =
      trace([](std::span<const Tensor> in) -> Tensors { return {in[0] * 2.0}; }, {&x, 1});
  Program second = std::move(first);
  CHECK(second({x})[0].data<float>()[0] == 4);
  const std::function<void()> uses[] = {
      [&] { first({x}); },       [&] { first.take(0); },         [&] { first.size(); },
      [&] { first.carried(0); }, [&] { first.parameters(); },    [&] { to_dot(first); },
      [&] { first.draws(); },    [&] { first.carried_count(); }, [&] { first.planned_bytes(); }};
  for (const auto& use : uses) CHECK(has(message_of(use), "moved from"));
  first = std::move(second);
  CHECK(first({x})[0].data<float>()[0] == 4);
}

TEST_CASE("a program that ran out of memory names the op, and runs when there is some") {
  Generator g(1);
  Parameter weight(g.normal({30, 20}, 0, 1));
  const Tensor x = g.normal({100, 20}, 0, 1);
  const auto f = [&](std::span<const Tensor> in) -> Tensors {
    const Tensor y = matmul(in[0], weight, {.transpose_b = true});
    const Tensor twice = custom_op(
        "twice", {y}, [](std::span<const Tensor> t) { return t[0] * 2.0; },
        [](auto, auto, auto grads) -> Tensors { return {grads[0] * 2.0}; });
    return {mean(square(twice))};
  };
  Program program = trace_gradient(f, {&x, 1});
  const Tensors expected = recorded(f, {x}, program.parameters());
  Tensors held;
  for (const bool again : {false, true}) {
    release_cached_memory();
    set_memory_limit(memory_stats().live + 1000);
    const std::string message = message_of<MemoryError>([&] { program({x}); });
    set_memory_limit(0);
    CAPTURE(message, again);
    // First for what leaves the program, the weight's gradient; then for what an op allocates.
    for (const char* part : {again ? "[twice]" : "[matmul]",
                             again ? "by affine of f32 [100, 30]" : "by matmul of f32 [100, 30]",
                             "bytes asked", "gradients", "parameters", "limit", "program_test.cpp"})
      if (again || std::string(part) != "program_test.cpp") CHECK(has(message, part));
    const std::int64_t live = memory_stats().live;
    const std::span<const Tensor> got = program({x});
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], expected[i]));
    if (again) CHECK(memory_stats().live == live);  // nothing was held on to
  }
}

TEST_CASE("an input returned as it is, and a value returned twice") {
  const Tensor x = Tensor::full({3}, 2);
  Program program = trace(
      [](std::span<const Tensor> in) -> Tensors {
        const Tensor y = in[0] * 3.0;
        return {in[0], y, y};
      },
      {&x, 1});
  const std::span<const Tensor> out = program({x});
  CHECK(same_bits(out[0], x));
  CHECK(out[1].data<float>()[0] == 6);
  CHECK(out[2].data<float>()[2] == 6);
}

TEST_CASE("a program draws itself for Graphviz") {
  const Tensor x = Tensor::full({3}, 2);
  const Parameter w(Tensor::full({3}, 2));
  const Program program =
      trace([&](std::span<const Tensor> in) -> Tensors { return {sum(in[0] * w)}; }, {&x, 1});
  const std::string dot = to_dot(program);
  CHECK(has(dot, "digraph"));
  CHECK(has(dot, "mul"));
  CHECK(has(dot, "[3]"));
  CHECK(has(dot, "parameter"));
}

TEST_CASE("carried inputs become outputs; what weights decide follows their changes") {
  Generator g(4);
  const Linear a(3, 3, g);
  Parameter scale(Tensor::full({3}, 2));
  const auto f = [&](std::span<const Tensor> in) -> Tensors {
    const Tensor twice = Tensor(scale) + Tensor(scale);
    const Tensor next = tanh(a(in[0]) + in[1] * twice);
    return {next, next, in[1]};  // one value for two receivers, and an input handed on
  };
  const Tensor x = g.normal({2, 3}, 0, 1), zero = Tensor::zeros({2, 3});
  Program program = trace(f, std::vector{x, zero, zero}, {.keep_weights = true, .carried = 2});
  REQUIRE(program.carried_count() == 2);
  Tensor state = zero, before = zero;
  for (int step = 0; step < 5; ++step) {
    if (step == 3) scale.set_value(Tensor::full({3}, 0.5));
    const Tensors expected = f(std::vector{x, state, before});
    const Tensor got = program({x})[0];
    CHECK(max(abs(got - expected[0])).item() < 1e-6);
    CHECK(max(abs(program.carried(0) - expected[1])).item() < 1e-6);
    CHECK(max(abs(program.carried(1) - expected[2])).item() < 1e-6);
    state = expected[1];
    before = expected[2];
  }
  CHECK_THROWS_AS(trace(f, std::vector{x, zero, Tensor::zeros({1, 3})}, {.carried = 2}), Error);
  CHECK_THROWS_AS(program({x, zero}), Error);
}
