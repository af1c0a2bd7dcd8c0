#include <unroll/graph/dry_run.h>
#include <unroll/graph/precision.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/mamba.h>
#include <unroll/layers/minimal.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/rwkv.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/reduce.h>
#include <unroll/optim/adam.h>
#include <unroll/optim/clip.h>

#include <memory>

#include "../catch.h"

using namespace unroll;

namespace {

struct Char : Module {
  Embedding embed;
  LSTM lstm;
  Linear head;
  Char(std::int64_t vocabulary, std::int64_t size, Generator& g)
      : embed(vocabulary, size, g),
        lstm({.input_size = size, .hidden_size = size, .num_layers = 2, .dropout = 0.1}, g),
        head(size, vocabulary, g) {
    add("embed", embed);
    add("lstm", lstm);
    add("head", head);
  }
  Tensor operator()(const Tensor& tokens) { return head(lstm(embed(tokens)).output); }
};

struct GPT : Module {
  Embedding embed;
  Parameter positions;
  TransformerEncoder blocks;
  Linear head;
  GPT(std::int64_t vocabulary, std::int64_t width, std::int64_t steps, Generator& g)
      : embed(vocabulary, width, g),
        positions(g.normal({steps, 1, width}, 0, 0.02)),
        blocks({.d_model = width, .nhead = 4, .num_layers = 2, .norm_first = true}, g),
        head(width, vocabulary, g) {
    add("embed", embed);
    add("positions", positions);
    add("blocks", blocks);
    add("head", head);
  }
  Tensor operator()(const Tensor& tokens) {
    return head(blocks(embed(tokens) + positions, {.causal = true}).output);
  }
};

template <class Model>
struct Trainer {
  std::shared_ptr<Model> model;
  Adam adam;
  explicit Trainer(std::shared_ptr<Model> m) : model(std::move(m)), adam(model->parameters()) {}
  template <class Loss>
  void step(const Loss& loss) {
    adam.zero_grad();
    Tape tape;
    tape.backward(loss(*model));
    clip_grad_norm(model->parameters(), 1.0);
    adam.step();
  }
};

/// The peak of a real step against the predicted one, inputs made inside the step by `make`.
template <class Model, class Make, class Loss>
void check_prediction(std::shared_ptr<Model> model, const Make& make, const Loss& loss) {
  Trainer<Model> trainer(model);
  const auto step = [&] {
    const auto inputs = make();
    trainer.step([&](Model& m) { return loss(m, inputs); });
  };
  const auto predict = [&] { return predict_memory(step).peak; };
  const MemoryStats before = memory_stats();
  const std::int64_t fresh = predict();
  CHECK(memory_stats().live == before.live);
  CHECK(memory_stats().live_by_kind == before.live_by_kind);
  CHECK(memory_stats().peak == before.peak);
  for (int i = 0; i < 3; ++i) step();
  reset_peak_memory();
  step();
  const auto real = static_cast<double>(memory_stats().peak);
  const std::int64_t warm = predict();
  CAPTURE(fresh, warm, real, static_cast<double>(fresh) / real, static_cast<double>(warm) / real);
  CHECK(static_cast<double>(fresh) == Approx(real).epsilon(0.05));
  CHECK(static_cast<double>(warm) == Approx(real).epsilon(0.05));
  for (const Parameter& p : model->parameters()) {
    REQUIRE(!p.value().is_abstract());
    REQUIRE(!p.grad().is_abstract());
  }
}

template <class Layer>
void check_recurrent(std::shared_ptr<Layer> layer, const Shape& input) {
  check_prediction(
      layer, [input] { return Tensor::zeros(input); },
      [](Layer& m, const Tensor& x) { return mean(square(m(x).output)); });
}

Tensor tokens(const Shape& shape) { return Tensor::zeros(shape, DType::i64); }

}  // namespace

TEST_CASE("a dry run predicts the peak of recurrent layers' training") {
  Generator g(1);
  check_recurrent(std::make_shared<LSTM>(LSTMOptions{.input_size = 64, .hidden_size = 128}, g),
                  {48, 16, 64});
  check_recurrent(
      std::make_shared<LSTM>(
          LSTMOptions{.input_size = 32, .hidden_size = 64, .num_layers = 2, .bidirectional = true},
          g),
      {40, 8, 32});
  check_recurrent(std::make_shared<GRU>(GRUOptions{.input_size = 64, .hidden_size = 128}, g),
                  {48, 16, 64});
  check_recurrent(
      std::make_shared<GRU>(
          GRUOptions{.input_size = 32, .hidden_size = 64, .num_layers = 2, .bidirectional = true},
          g),
      {40, 8, 32});
  check_recurrent(std::make_shared<RNN>(RNNOptions{.input_size = 64, .hidden_size = 128}, g),
                  {48, 16, 64});
  check_recurrent(
      std::make_shared<RNN>(
          RNNOptions{.input_size = 32, .hidden_size = 64, .num_layers = 2, .bidirectional = true},
          g),
      {40, 8, 32});
}

TEST_CASE("a dry run predicts the peak where gradients are written over each other") {
  struct Chain : Module {
    Parameter p{Tensor::full({1 << 16}, 0.1)};
    Chain() { add("p", p); }
  };
  check_prediction(
      std::make_shared<Chain>(), [] { return Tensor::zeros({1 << 16}); },
      [](Chain& m, const Tensor& x) {
        Tensor y = x + m.p;  // one name, so that the peak is met on the way back
        y = sigmoid(y);
        y = y * 2.0;
        y = tanh(y);
        y = pointwise([](auto v) { return v * v; }, y);
        return mean(y);
      });
}

TEST_CASE("a dry run predicts the peak of a char model's and a Transformer's training") {
  Generator g(1);
  const auto pair = [](std::int64_t steps, std::int64_t batch) {
    return [=] { return std::pair{tokens({steps, batch}), tokens({steps, batch})}; };
  };
  const auto loss = [](auto& m, const auto& batch) {
    return cross_entropy(m(batch.first), batch.second);
  };
  check_prediction(std::make_shared<Char>(65, 96, g), pair(64, 16), loss);
  check_prediction(std::make_shared<GPT>(65, 64, 64, g), pair(64, 8), loss);
}

TEST_CASE("a dry run predicts the peak of training the layers that have all steps at once") {
  Generator g(1);
  const auto check = [](std::shared_ptr<ParallelCell> cell, const Shape& input) {
    for (const bool with_lengths : {false, true})
      check_prediction(
          cell,
          [=] {
            const std::vector<std::int64_t> counts(static_cast<std::size_t>(input[1]), input[0]);
            return std::pair{Tensor::zeros(input),
                             with_lengths ? Tensor::from(counts, {input[1]}) : Tensor()};
          },
          [](ParallelCell& m, const auto& in) {
            return mean(square(m.run(in.first, {.lengths = in.second}).output));
          });
  };
  check(std::make_shared<MinimalBlock>(MinimalBlockOptions{.size = 64}, g), {64, 8, 64});
  check(std::make_shared<MinimalBlock>(MinimalBlockOptions{.size = 64, .lstm = true}, g),
        {64, 8, 64});
  check(std::make_shared<MambaBlock>(MambaOptions{.d_model = 64}, g), {64, 8, 64});
  // More channels than one block of the scan takes.
  check(std::make_shared<MambaBlock>(MambaOptions{.d_model = 160}, g), {40, 4, 160});
  check(std::make_shared<RWKVBlock>(RWKVOptions{.size = 64, .heads = 2}, g), {64, 8, 64});
}

TEST_CASE("a dry run predicts the peak of long attention, also on two threads") {
  Generator g(1);
  for (const int count : {1, 2})
    for (const std::int64_t heads : {1, 2}) {
      set_threads(count);
      CAPTURE(count, heads);
      check_prediction(
          std::make_shared<TransformerEncoder>(
              TransformerOptions{.d_model = 128 * heads, .nhead = heads, .num_layers = 1}, g),
          [heads] {
            return Tensor::zeros({600, 2, 128 * heads});
          },
          [](TransformerEncoder& m, const Tensor& x) {
            return mean(square(m(x, {.causal = true}).output));
          });
      set_threads(1);
    }
}

TEST_CASE("a dry run predicts the peak of products in bf16, on tiles and in batches") {
  if (!bf16_support().complete()) return;
  for (const Shape& shape : {Shape{16, 256, 256}, Shape{700, 512}, Shape{8, 512}}) {
    CAPTURE(to_string(shape));
    const Tensor a = Tensor::zeros(shape),
                 b = Tensor::zeros(shape.rank() == 3 ? shape : Shape{512, 512});
    const auto step = [&] {
      Tape tape({.precision = DType::bf16});
      const Tensor x = tape.watch(a);
      tape.gradient(mean(matmul(x, b)), {x});
    };
    step();
    reset_peak_memory();
    step();
    CHECK(static_cast<double>(predict_memory(step).peak) ==
          Approx(static_cast<double>(memory_stats().peak)).epsilon(0.05));
  }
}

TEST_CASE("a dry run takes lengths, and allocates nothing large") {
  release_cached_memory();
  const MemoryStats before = memory_stats();
  const auto predicted = [&] {
    const DryRun dry;
    Generator g(1);
    // About 100 MB of parameters and 20 GB of activations.
    LSTM lstm({.input_size = 1024, .hidden_size = 2048}, g);
    Adam adam(lstm.parameters());
    return predict_memory([&] {
      const Tensor x = Tensor::empty({2000, 128, 1024});
      Tape tape;
      tape.backward(mean(square(lstm(x, {.lengths = Tensor::empty({128}, DType::i64)}).output)));
      adam.step();
      adam.zero_grad();
    });
  }();
  CHECK(predicted.peak > 10'000'000'000);
  CHECK(predicted.live_by_kind[3] == Approx(2 * predicted.live_by_kind[2]).epsilon(0.01));
  const MemoryStats after = memory_stats();
  CHECK(after.live == before.live);
  CHECK(after.peak == before.peak);
  CHECK(after.live + after.cached - before.live - before.cached < 8'000'000);
}

TEST_CASE("in a dry run data cannot be read, and what fails leaves no trace") {
  Parameter p(Tensor::full({3}, 2));
  p.set_grad(Tensor::full({3}, 1));
  const std::int64_t live = memory_stats().live;
  CHECK(has(message_of([&] { predict_memory([&] { sum(Tensor(p)).item(); }); }), "dry run"));
  CHECK(has(message_of([&] {
              predict_memory([&] {
                Tape tape;
                const Tensor loss = sum(Tensor(p) * Tensor(p));
                tape.backward(loss);
                loss.item();
              });
            }),
            "dry run"));
  CHECK(memory_stats().live == live);
  CHECK(p.grad().data<float>()[0] == 1);
  CHECK(sum(p.value()).item() == 6);
}
