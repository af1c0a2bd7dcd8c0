// Truncated back-propagation through time: how far gradients reach, its limits, its memory.

#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/reduce.h>
#include <unroll/train/truncated_bptt.h>

#include "../catch.h"
#include "../io/files.h"
#include "../tensors.h"
#include "setup.h"

using namespace unroll;
using unroll::test::Setup;
using unroll::test::small;

namespace {

constexpr std::int64_t batch = 3, outputs = 5;

std::unique_ptr<SequenceModel> model_of(ModelKind kind, DType dtype = DType::f32) {
  Generator g(1);
  auto model = make_model(
      {.kind = kind, .features = 4, .outputs = outputs, .embedding = 6, .hidden = 8, .layers = 2},
      g);
  model->to(dtype);
  return model;
}

std::vector<Tensor> take_gradients(SequenceModel& model) {
  std::vector<Tensor> grads;
  for (const Parameter& one : model.parameters()) grads.push_back(one.grad());
  model.zero_grad();
  return grads;
}

// A loss in which every output counts for itself.
Tensor loss_of(const Tensor& output) {
  return sum(square(output) * normal(output.shape(), 7, output.dtype()));
}

// The gradient of one chunk by the definition: all before the last k2 steps is a constant.
std::pair<Tensor, std::vector<Tensor>> defined(SequenceModel& model, const Tensor& xs,
                                               std::int64_t end, std::int64_t k1, std::int64_t k2) {
  const std::int64_t begin = std::max<std::int64_t>(0, end - k2);
  State state;
  Tensor before;
  if (begin > 0) {
    const Output past = model(xs.rows(0, begin));
    state = past.state;
    before = past.output;
  }
  Tape tape;
  Tensor output = model(xs.rows(begin, end), state).output;
  if (before.defined()) output = concat({before, output}, 0);
  output = slice(output, 0, end - k1);
  tape.backward(loss_of(output));
  return {output.detach(), take_gradients(model)};
}

}  // namespace

TEST_CASE("BPTT(k1, k2): gradients reach k2 steps back, whatever k1") {
  for (const ModelKind kind : {ModelKind::rnn, ModelKind::lstm, ModelKind::gru}) {
    const auto model = model_of(kind, DType::f64);
    const Tensor xs = normal({24, batch, 4}, 2);
    for (const auto& [k1, k2] : {std::pair<std::int64_t, std::int64_t>{2, 8},
                                 {3, 8},
                                 {4, 6},
                                 {6, 4},
                                 {1, 5},
                                 {4, 4},
                                 {5, 100}}) {
      Carried carried;
      for (std::int64_t end = k1; end <= 24; end += k1) {
        CAPTURE(to_string(kind), k1, k2, end);
        std::vector<Tensor> grads;
        Tensor output;
        {
          Tape tape;
          output = run_stream(*model, xs.rows(end - k1, end), k2, carried);
          tape.backward(loss_of(output));
          output = output.detach();
          grads = take_gradients(*model);
        }
        REQUIRE(output.shape() == Shape{k1, batch, outputs});
        const auto [expected, gradients] = defined(*model, xs, end, k1, k2);
        CHECK(difference(output, expected) < 1e-12);
        for (std::size_t i = 0; i < grads.size(); ++i)
          CHECK(difference(grads[i], gradients[i]) < 1e-11);
      }
    }
  }
}

TEST_CASE("where k2 reaches the beginning, truncated is full, bit for bit") {
  for (const ModelKind kind : {ModelKind::rnn, ModelKind::lstm, ModelKind::gru}) {
    const auto model = model_of(kind);
    const Tensor xs = normal({12, batch, 4}, 3, DType::f32);
    for (const std::int64_t k1 : {3, 4, 12})
      for (const std::int64_t k2 : {12, 50}) {
        Carried carried;
        for (std::int64_t end = k1; end <= 12; end += k1) {
          CAPTURE(to_string(kind), k1, k2, end);
          Tensor output, full;
          std::vector<Tensor> grads, full_grads;
          {
            Tape tape;
            output = run_stream(*model, xs.rows(end - k1, end), k2, carried);
            tape.backward(loss_of(output));
            grads = take_gradients(*model);
          }
          {
            Tape tape;
            full = model->operator()(xs.rows(0, end)).output;
            if (end > k1) full = slice(full, 0, end - k1);
            tape.backward(loss_of(full));
            full_grads = take_gradients(*model);
          }
          CHECK(same_bits(output, full));
          for (std::size_t i = 0; i < grads.size(); ++i) CHECK(same_bits(grads[i], full_grads[i]));
        }
      }
  }
}

TEST_CASE("k1 = k2 is a state carried from chunk to chunk, bit for bit") {
  const auto model = model_of(ModelKind::lstm);
  const Tensor xs = normal({20, batch, 4}, 4, DType::f32);
  for (const std::int64_t k2 : {0, 5}) {
    Carried carried;
    State state;
    for (std::int64_t end = 5; end <= 20; end += 5) {
      std::vector<Tensor> grads[2];
      {
        Tape tape;
        tape.backward(loss_of(run_stream(*model, xs.rows(end - 5, end), k2, carried)));
        grads[0] = take_gradients(*model);
      }
      {
        Tape tape;
        Output chunk = (*model)(xs.rows(end - 5, end), state);
        tape.backward(loss_of(chunk.output));
        state = chunk.state;
        grads[1] = take_gradients(*model);
      }
      for (std::size_t i = 0; i < grads[0].size(); ++i) CHECK(same_bits(grads[0][i], grads[1][i]));
    }
  }
}

TEST_CASE("chunks may change their length; behind one that fills the window gradients end") {
  const auto model = model_of(ModelKind::gru, DType::f64);
  const Tensor xs = normal({30, batch, 4}, 5);
  constexpr std::int64_t k2 = 6;
  Carried carried;
  std::int64_t end = 0, kept = 0;
  for (const std::int64_t k1 : {2, 7, 1, 1, 9, 3, 5, 2}) {
    end += k1;
    CAPTURE(k1, end);
    Tape tape;
    const Tensor output = run_stream(*model, xs.rows(end - k1, end), k2, carried);
    tape.backward(loss_of(output));
    const std::vector<Tensor> grads = take_gradients(*model);
    const auto [expected, gradients] = defined(*model, xs, end, k1, std::min(k2, kept + k1));
    CHECK(difference(output, expected) < 1e-12);
    for (std::size_t i = 0; i < grads.size(); ++i)
      CHECK(difference(grads[i], gradients[i]) < 1e-11);
    kept = k1 >= k2 ? 0 : std::min(k2, kept + k1);
  }
}

TEST_CASE("the memory of truncated back-propagation is that of k2, however long the stream") {
  const auto peak = [](std::int64_t chunks, std::int64_t k2) {
    const auto model = model_of(ModelKind::lstm);
    Generator g(6);
    Carried carried;
    std::int64_t most = 0;
    for (std::int64_t i = 0; i < chunks; ++i) {
      const Tensor x = g.normal({4, 16, 4}, 0, 1);
      reset_peak_memory();
      Tape tape;
      tape.backward(loss_of(run_stream(*model, x, k2, carried)));
      model->zero_grad();
      most = std::max(most, memory_stats().peak);
    }
    return most;
  };
  const std::int64_t some = peak(20, 16);
  CHECK(peak(200, 16) == some);
  CHECK(peak(40, 64) > some + some / 2);
  CHECK(peak(20, 4) < some);
}

TEST_CASE("a model whose state grows is no stream's, unless nothing is gone through again") {
  const auto model = model_of(ModelKind::transformer);
  Carried carried;
  const Tensor x = normal({4, batch, 4}, 7, DType::f32);
  CHECK(has(message_of([&] { run_stream(*model, x, 8, carried); }), "grows"));
  CHECK_NOTHROW(run_stream(*model, x, 0, carried));
  CHECK_THROWS_AS(run_stream(*model_of(ModelKind::rnn), x, -1, carried), Error);
}

TEST_CASE("training in a stream, resumed equals uninterrupted, bit for bit") {
  const TemporaryDirectory folder;
  const auto config = small(ModelKind::lstm);
  for (const std::int64_t k2 : {8, 40}) {
    const auto run = [&](Setup& setup, std::int64_t steps, bool resume) {
      setup.task.k2 = k2;
      return setup.run({.steps = steps,
                        .clip_norm = 1,
                        .gradient_noise = {.eta = 1e-4},
                        .checkpoint = (folder / std::to_string(k2)).string(),
                        .resume = resume});
    };
    Setup whole(config, true), first(config, true), second(config, true);
    run(whole, 12, false);
    run(first, 7, false);
    run(second, 12, true);
    CHECK(same_bits(whole.model->state_dict(), second.model->state_dict()));
    CHECK(!same_bits(whole.model->state_dict(), first.model->state_dict()));
  }
}

TEST_CASE("what lies further back than k2 is not learned, what lies within is") {
  // The symbol of `lag` steps ago, from a stream of random ones, two steps at a time.
  constexpr std::int64_t symbols = 4, lag = 5;
  const auto error = [&](std::int64_t k2) {
    Generator g(8);
    const auto model = make_model(
        {.kind = ModelKind::rnn, .vocabulary = symbols, .embedding = 8, .hidden = 32, .layers = 1},
        g);
    Adam optimizer(model->parameters(), {.learning_rate = 3e-3});
    constexpr std::int64_t rows = 16;
    std::vector<std::vector<std::int64_t>> past(lag, std::vector<std::int64_t>(rows, 0));
    TrainTask task;
    task.carry_state = true;
    task.k2 = k2;
    task.loss = test::token_loss;
    task.next = [&](Generator& draw) {
      Tensor x = Tensor::empty({2, rows}, DType::i64), y = Tensor::empty({2, rows}, DType::i64);
      for (std::int64_t t = 0; t < 2; ++t) {
        std::vector<std::int64_t> now(rows);
        for (std::int64_t b = 0; b < rows; ++b) {
          now[static_cast<std::size_t>(b)] = draw.below(symbols);
          x.mutable_ptr<std::int64_t>()[t * rows + b] = now[static_cast<std::size_t>(b)];
          y.mutable_ptr<std::int64_t>()[t * rows + b] = past.front()[static_cast<std::size_t>(b)];
        }
        past.erase(past.begin());
        past.push_back(now);
      }
      return Batch{x, y};
    };
    const TrainResult result =
        train(*model, optimizer, task, g, {.steps = 1500, .evaluate_every = 250, .label = ""});
    return result.curve.back().train_loss;
  };
  const double chance = std::log(4.0);
  CHECK(error(8) < 0.3 * chance);
  CHECK(error(2) > 0.7 * chance);
}
