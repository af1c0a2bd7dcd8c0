#include <unroll/graph/memory.h>
#include <unroll/graph/precision.h>
#include <unroll/graph/threads.h>
#include <unroll/layers/dropout.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/mamba.h>
#include <unroll/layers/minimal.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/attention.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/scan.h>
#include <unroll/optim/adam.h>
#include <unroll/optim/sgd.h>
#include <unroll/train/train_step.h>

#include <set>
#include <string>

#include "../catch.h"
#include "../tensors.h"
#include "setup.h"

using namespace unroll;

namespace {

using Tensors = std::vector<Tensor>;

struct CharModel : Module {
  Embedding embed;
  GRU gru;
  TransformerEncoder encoder;
  Linear head;
  explicit CharModel(Generator& g)
      : embed(11, 8, g),
        gru({.input_size = 8, .hidden_size = 8}, g),
        encoder({.d_model = 8, .nhead = 2, .num_layers = 1, .norm_first = true}, g),
        head(8, 11, g) {
    add("embed", embed);
    add("gru", gru);
    add("encoder", encoder);
    add("head", head);
  }
  Tensors loss(std::span<const Tensor> in) {
    const Output out = gru(embed(in[0]));
    return {cross_entropy(head(encoder(out.output, {.causal = true}).output), in[1]), out.state[0]};
  }
};

Tensors batch(std::int64_t steps, std::uint64_t seed) {
  Generator g(seed);
  Tensors both;
  for (int i = 0; i < 2; ++i) {
    both.push_back(Tensor::empty({steps, 3}, DType::i64));
    for (std::int64_t& token : both.back().mutable_data<std::int64_t>()) token = g.below(11);
  }
  return both;
}

// Two models that begin alike: one is trained by recorded steps, the other by replayed ones.
template <class Model, class Loss>
struct Twins {
  Model &recorded, &replayed;
  Loss loss;
  AdamW one{recorded.parameters()}, two{replayed.parameters()};
  TrainStep step{[this](std::span<const Tensor> in) { return loss(replayed, in); }, two};

  Twins(Model& a, Model& b, Loss l) : recorded(a), replayed(b), loss(std::move(l)) {}
  void train(const Tensors& in) {
    one.zero_grad();
    Tape tape;
    const Tensors expected = loss(recorded, in);
    tape.backward(expected[0]);
    one.step();
    CHECK(same_bits(step(in)[0], expected[0]));
  }
  bool alike() const { return same_bits(recorded.state_dict(), replayed.state_dict()); }
};

Tensors token_loss(SequenceModel& model, std::span<const Tensor> in) {
  return {cross_entropy(model(in[0]).output, in[1])};
}

}  // namespace

TEST_CASE("a replayed training step gives the bits of a recorded one, whatever shapes come") {
  Generator g1(5), g2(5);
  CharModel recorded(g1), replayed(g2);
  AdamW one(recorded.parameters(), {.learning_rate = 1e-2}),
      two(replayed.parameters(), {.learning_rate = 1e-2});
  TrainStep step([&](std::span<const Tensor> in) { return replayed.loss(in); }, two,
                 {.clip_norm = 0.5, .programs = 2});
  for (std::uint64_t i = 0; i < 9; ++i) {
    const Tensors in = batch(4 + static_cast<std::int64_t>(i % 3), i);
    one.zero_grad();
    Tape tape;
    const Tensors expected = recorded.loss(in);
    tape.backward(expected[0]);
    const double norm = one.step({.clip_norm = 0.5});
    const std::span<const Tensor> got = step(in);
    REQUIRE(got.size() == 2);
    CHECK(same_bits(got[0], expected[0]));
    CHECK(same_bits(got[1], expected[1]));
    CHECK(step.grad_norm() == norm);
    CHECK(step.programs() <= 2);
  }
  CHECK(same_bits(recorded.state_dict(), replayed.state_dict()));
  CHECK(same_bits(one.state_dict(), two.state_dict()));
}

TEST_CASE("a replayed training step asks the system for no memory") {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  Generator g(5);
  CharModel model(g);
  Adam optimizer(model.parameters());
  TrainStep step([&](std::span<const Tensor> in) { return model.loss(in); }, optimizer);
  const Tensors in = batch(6, 1);
  for (int i = 0; i < 3; ++i) step(in);
  const MemoryStats warm = memory_stats();
  for (int i = 0; i < 10; ++i) step(in);
  CHECK(memory_stats().live == warm.live);
  CHECK(memory_stats().system_allocations == warm.system_allocations);
#endif
}

TEST_CASE("every kind of model is replayed: the bits of a recorded step, no memory of the system") {
  for (const ModelKind kind : test::every_kind) {
    CAPTURE(to_string(kind));
    Generator g1(5), g2(5);
    ModelConfig config = test::small(kind);
    config.vocabulary = 11;
    const auto recorded = make_model(config, g1), replayed = make_model(config, g2);
    Twins twins(*recorded, *replayed, token_loss);
    // 35 steps pass the boundaries of the scans' chunks.
    for (std::uint64_t i = 0; i < 2; ++i) twins.train(batch(35, i));
    CHECK(twins.alike());
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    const Tensors in = batch(35, 3);
    twins.step(in);
    const MemoryStats warm = memory_stats();
    for (int i = 0; i < 3; ++i) twins.step(in);
    CHECK(memory_stats().system_allocations == warm.system_allocations);
#endif
  }
}

TEST_CASE("models with every kind of dropout are replayed: masks are drawn anew, as recorded") {
  const auto check = [](ModelConfig config) {
    CAPTURE(to_string(config.kind));
    config.vocabulary = 11;
    Generator g1(5), g2(5);
    const auto recorded = make_model(config, g1), replayed = make_model(config, g2);
    Twins twins(*recorded, *replayed, token_loss);
    for (int i = 0; i < 4; ++i) twins.train(batch(6, 1));
    CHECK(twins.step.programs() == 1);
    CHECK(twins.alike());
    const auto a = recorded->generators(), b = replayed->generators();
    REQUIRE(!a.empty());
    for (std::size_t i = 0; i < a.size(); ++i)
      CHECK(a[i].second->position() == b[i].second->position());
  };
  for (const ModelKind kind : test::every_kind) check(test::small(kind, 0.3));
  for (const ModelKind kind : {ModelKind::rnn, ModelKind::lstm, ModelKind::gru}) {
    ModelConfig config = test::small(kind);
    const bool gated = kind != ModelKind::rnn;
    config.regularization = {.input_dropout = 0.2,
                             .hidden_dropout = 0.2,
                             .update_dropout = gated ? 0.2 : 0,
                             .zoneout_h = 0.1,
                             .zoneout_c = kind == ModelKind::lstm ? 0.1 : 0,
                             .weight_drop = 0.2};
    check(config);
  }
}

TEST_CASE(
    "lengths are inputs of a replayed step: each batch has its own, and wrong ones are refused") {
  const auto check = [](auto make) {
    Generator g1(5), g2(5), g(6);
    const auto recorded = make(g1), replayed = make(g2);
    CAPTURE(recorded->describe());
    const auto loss = [](auto& layer, std::span<const Tensor> in) -> Tensors {
      const RecurrentCall call{.lengths = in[1]};
      const Output out = [&] {
        if constexpr (requires { layer.run(in[0], call); })
          return layer.run(in[0], call);
        else
          return layer(in[0], call);
      }();
      return {mean(square(out.output)) + mean(square(out.state[0]))};
    };
    Twins twins(*recorded, *replayed, loss);
    for (std::int64_t i = 0; i < 3; ++i)
      twins.train({g.normal({6, 3, 8}, 0, 1), Tensor::from({i, 6 - i, std::int64_t{3}}, {3})});
    CHECK(twins.step.programs() == 1);
    CHECK(twins.alike());
    const Tensor x = g.normal({6, 3, 8}, 0, 1);
    CHECK_THROWS_AS(twins.step({x, Tensor::from<std::int64_t>({1, 7, 3}, {3})}), Error);
    CHECK_THROWS_AS(twins.step({x, Tensor::from<std::int64_t>({-1, 6, 3}, {3})}), Error);
    CHECK(twins.alike());
  };
  check([](Generator& g) {
    return std::make_unique<LSTM>(
        LSTMOptions{.input_size = 8, .hidden_size = 8, .num_layers = 2, .bidirectional = true}, g);
  });
  check([](Generator& g) {
    return std::make_unique<GRU>(GRUOptions{.input_size = 8, .hidden_size = 8}, g);
  });
  check([](Generator& g) { return std::make_unique<MinGRU>(MinimalCellOptions{8, 8}, g); });
  check([](Generator& g) { return std::make_unique<Mamba>(MambaOptions{.d_model = 8}, g); });
}

TEST_CASE("a replayed step checks attention's lengths, as recording does") {
  Generator g(5);
  Linear layer(8, 8, g);
  SGD optimizer(layer.parameters());
  TrainStep step(
      [&](std::span<const Tensor> in) -> Tensors {
        const Columns x{layer(in[0])};
        return {mean(square(attention(x, x, x, 2, {.lengths = in[1]}).output))};
      },
      optimizer);
  const Tensor x = g.normal({6, 2, 8}, 0, 1);
  step({x, Tensor::from<std::int64_t>({6, 2}, {2})});
  const StateDict before = layer.state_dict();
  CHECK_THROWS_AS(step({x, Tensor::from<std::int64_t>({9, -2}, {2})}), Error);
  CHECK(same_bits(layer.state_dict(), before));
}

TEST_CASE("a training step notices frozen parameters and precision, and can be traced anew") {
  Generator g(5);
  Linear layer(4, 4, g);
  SGD optimizer(layer.parameters());
  double scale = 1;
  TrainStep step(
      [&](std::span<const Tensor> in) -> Tensors { return {mean(square(layer(in[0]))) * scale}; },
      optimizer);
  const Tensor x = g.normal({3, 4}, 0, 1);
  layer.weight.set_trainable(false);
  const Tensor frozen = layer.weight.value().clone();
  step({x});
  CHECK(same_bits(layer.weight.value(), frozen));
  layer.weight.set_trainable(true);
  step({x});
  CHECK(!same_bits(layer.weight.value(), frozen));
  CHECK(step.programs() == 2);
  if (bf16_support().complete()) {
    const Tape tape{{.precision = DType::bf16}};
    step({x});
    CHECK(step.programs() == 3);
  }
  const double loss = step({x})[0].item();
  scale = 0;
  CHECK(step({x})[0].item() > loss / 2);  // what the function reads by itself stays
  step.clear();
  CHECK(step({x})[0].item() == 0);
}

TEST_CASE("gradients that are not finite leave parameters as they are where they are clipped") {
  const Parameter weight(Tensor::full({3}, 2));
  const std::vector<Parameter> all{weight};
  SGD plain(all);
  AdamW fused(all);
  for (Optimizer* optimizer : {static_cast<Optimizer*>(&plain), static_cast<Optimizer*>(&fused)}) {
    TrainStep step(
        [&](std::span<const Tensor> in) -> Tensors { return {sum(sqrt(weight * in[0]))}; },
        *optimizer, {.clip_norm = 1});
    CHECK_THROWS_AS(step({Tensor::zeros({3})}), Error);  // sqrt'(0) * 0
    CHECK(same_bits(weight.value(), Tensor::full({3}, 2)));
  }
}

TEST_CASE("an empty function and a step that was moved from are told so") {
  Generator g(5);
  Linear layer(4, 4, g);
  SGD optimizer(layer.parameters());
  CHECK(has(message_of([&] { TrainStep({}, optimizer); }), "the function is empty"));
  TrainStep first(
      [&](std::span<const Tensor> in) -> Tensors { return {mean(square(layer(in[0])))}; },
      optimizer);
  const Tensor x = g.normal({3, 4}, 0, 1);
  first({x});
  TrainStep second = std::move(first);
  CHECK(second.programs() == 1);
  CHECK(has(message_of([&] { first({x}); }), "moved from"));
  CHECK_NOTHROW(second({x}));
}

TEST_CASE("a replayed step that runs out of memory names the op and changes nothing") {
  Generator g1(5), g2(5);
  CharModel recorded(g1), replayed(g2);
  const auto loss = [](CharModel& model, std::span<const Tensor> in) { return model.loss(in); };
  Twins twins(recorded, replayed, loss);
  twins.one.zero_grad();
  const auto unchanged = [&] {
    return twins.alike() && same_bits(twins.one.state_dict(), twins.two.state_dict());
  };
  std::set<std::string> stages;
  // Traced under the limit, then warm.
  for (const std::int64_t steps : {20, 20, 21}) {
    const Tensors in = batch(steps, 1);
    bool done = false;
    for (std::int64_t room = 0; !done; room += 4000) {
      release_cached_memory();
      set_memory_limit(memory_stats().live + room);
      try {
        twins.step(in);
        done = true;
      } catch (const MemoryError& error) {
        const std::string what = error.what();
        stages.insert(what.substr(0, what.find(']')));
        CAPTURE(what);
        CHECK((has(what, "bytes asked by ") && has(what, "gradients")));
      }
      set_memory_limit(0);
      if (!done) REQUIRE(unchanged());
    }
    twins.one.zero_grad();
    {
      Tape tape;
      tape.backward(recorded.loss(in)[0]);
    }
    twins.one.step();
    REQUIRE(unchanged());
  }
  CHECK(stages.size() > 4);
  for (const char* stage : {"[trace", "[scan", "[embedding_backward"})
    CHECK(stages.count(stage) == 1);
}

TEST_CASE("a replayed step that fails leaves its generators where they were") {
  Generator g(5), masks(6);
  Linear wide(64, 64, g);
  Adam adam(wide.parameters());
  TrainStep step(
      [&](std::span<const Tensor> in) -> Tensors {
        const Tensor h = dropout(wide(dropout(in[0], 0.5, masks)), 0.5, masks);
        return {mean(square(wide(h)))};
      },
      adam);
  step({g.normal({8, 64}, 0, 1)});
  const Tensor x = g.normal({8, 64}, 0, 1);
  const std::uint64_t before = masks.position();
  const Tensor held = step({x})[0];  // the next result needs memory of its own
  const std::uint64_t moved = masks.position() - before;
  CHECK(moved > 0);
  int failures = 0;
  for (std::int64_t room = 0;; room += 500) {
    const std::uint64_t position = masks.position();
    release_cached_memory();
    set_memory_limit(memory_stats().live + room);
    try {
      step({x});
      set_memory_limit(0);
      CHECK(masks.position() == position + moved);
      break;
    } catch (const MemoryError&) {
      set_memory_limit(0);
      ++failures;
      REQUIRE(masks.position() == position);
    }
  }
  CHECK(failures > 0);
}

TEST_CASE("a scan with checkpoints is replayed: the bits of recording") {
  for (const std::int64_t every : {1, 4, 50}) {
    Generator g1(5), g2(5), g(6);
    LSTMCell recorded({.input_size = 6, .hidden_size = 5}, g1);
    LSTMCell replayed({.input_size = 6, .hidden_size = 5}, g2);
    const auto loss = [every](LSTMCell& cell, std::span<const Tensor> in) -> Tensors {
      const State start{Tensor::zeros({3, 5}), Tensor::zeros({3, 5})};
      const Output out = scan(std::cref(cell), in[0], start, {.checkpoint_every = every});
      return {mean(square(out.output)) + mean(out.state[1])};
    };
    Twins twins(recorded, replayed, loss);
    for (const std::int64_t steps : {13, 13, 9, 13}) twins.train({g.normal({steps, 3, 6}, 0, 1)});
    CHECK(twins.alike());
  }
}

TEST_CASE("where there is no room for moments, a replayed step leaves no gradients behind") {
  const Parameter weight(Tensor::full({100'000}, 2));
  Adam optimizer({weight});
  TrainStep step([&](std::span<const Tensor> in) -> Tensors { return {sum(weight * in[0])}; },
                 optimizer);
  const Tensor x = Tensor::full({100'000}, 1);
  std::set<std::string> stages;
  for (std::int64_t room = 0; weight.value().data<float>()[0] == 2; room += 200'000) {
    release_cached_memory();
    set_memory_limit(memory_stats().live + memory_stats().cached + room);  // other threads' too
    try {
      step({x});
    } catch (const MemoryError& error) {
      const std::string what = error.what();
      stages.insert(what.substr(0, what.find(']')));
    }
    set_memory_limit(0);
    if (weight.value().data<float>()[0] == 2) CHECK(optimizer.state_dict().size() == 2);
    CHECK(!weight.grad().defined());
  }
  CHECK(stages.count("[Adam") == 1);
}

TEST_CASE("a replayed scan follows the number of threads, and gives the same bits") {
  const auto check = [](auto make, const Shape& shape) {
    Generator g1(5), g2(5), g(6);
    const auto recorded = make(g1), replayed = make(g2);
    CAPTURE(recorded->describe());
    const auto loss = [](auto& layer, std::span<const Tensor> in) -> Tensors {
      return {mean(square(layer(in[0]).output))};
    };
    Twins twins(*recorded, *replayed, loss);
    for (const int count : {1, 2, 2, 1, 2}) {
      set_threads(count);
      twins.train({g.normal(shape, 0, 1)});
    }
    set_threads(1);
    CHECK(twins.step.programs() == 1);
    CHECK(twins.alike());
  };
  // Wide enough for the members to run side by side.
  check(
      [](Generator& g) {
        return std::make_unique<LSTM>(
            LSTMOptions{.input_size = 40, .hidden_size = 64, .num_layers = 2}, g);
      },
      {37, 30, 40});
  check(
      [](Generator& g) {
        return std::make_unique<GRU>(
            GRUOptions{.input_size = 40, .hidden_size = 64, .bidirectional = true}, g);
      },
      {37, 30, 40});
}

TEST_CASE("a replayed step holds on to no parameter: the optimizer changes them in place") {
  Generator g(5);
  CharModel model(g);
  Adam optimizer(model.parameters());
  TrainStep step([&](std::span<const Tensor> in) { return model.loss(in); }, optimizer);
  const auto places = [&] {
    std::vector<const std::byte*> all;
    for (const Parameter& one : model.parameters()) all.push_back(one.value().bytes());
    return all;
  };
  step(batch(6, 1));
  const auto before = places();
  for (std::uint64_t i = 0; i < 3; ++i) step(batch(6, i));
  CHECK(places() == before);
}

TEST_CASE("a traced step streams: the state goes in and comes out") {
  for (const ModelKind kind : test::every_kind) {
    if (kind == ModelKind::transformer) continue;  // its cache grows, a program's shapes do not
    CAPTURE(to_string(kind));
    Generator g(5);
    const auto model = make_model(test::small(kind), g);
    model->eval();
    const NoGrad constant;
    const auto token = [](std::int64_t t) {
      return Tensor::full({1, 2}, static_cast<double>(t * t % 8), DType::i64);
    };
    const Output first = (*model)(token(0));
    Tensors examples{token(1)};
    for (const Tensor& one : first.state) examples.push_back(one);
    Program program = trace(
        [&](std::span<const Tensor> in) {
          const Output out = (*model)(in[0], State(in.begin() + 1, in.end()));
          Tensors all{out.output};
          for (const Tensor& one : out.state) all.push_back(one);
          return all;
        },
        examples);
    State plain = first.state, streamed = first.state;
    for (std::int64_t t = 1; t < 20; ++t) {
      const Output expected = (*model)(token(t), plain);
      plain = expected.state;
      Tensors in{token(t)};
      for (const Tensor& one : streamed) in.push_back(one);
      const std::span<const Tensor> got = program(in);
      CHECK(same_bits(got[0], expected.output));
      for (std::size_t k = 0; k < streamed.size(); ++k) {
        CHECK(same_bits(got[1 + k], plain[k]));
        streamed[k] = got[1 + k].clone();
      }
    }
  }
}

TEST_CASE("a loss that is not finite leaves the parameters as they were") {
  Generator g(5);
  Linear layer(3, 1, g);
  Adam optimizer(layer.parameters());
  TrainStep step([&](std::span<const Tensor> in) -> Tensors { return {sum(layer(in[0]))}; },
                 optimizer);
  const auto before = layer.state_dict();
  std::map<std::string, Tensor> copies;
  for (const auto& [name, value] : before) copies[name] = value.clone();
  CHECK(has(message_of([&] { step({Tensor::full({2, 3}, INFINITY)}); }), "the loss is"));
  CHECK(same_bits(layer.state_dict(), copies));
  CHECK(step({Tensor::full({2, 3}, 1)})[0].numel() == 1);
}
