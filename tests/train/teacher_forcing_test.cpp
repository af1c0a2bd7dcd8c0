// Scheduled sampling by its definition, and the measurement of exposure bias.

#include <unroll/graph/tape.h>
#include <unroll/io/tokens.h>
#include <unroll/ops/index.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>
#include <unroll/optim/adam.h>
#include <unroll/train/teacher_forcing.h>
#include <unroll/train/trainer.h>

#include "../catch.h"
#include "../io/files.h"
#include "../tensors.h"
#include "seq2seq.h"

using namespace unroll;
using namespace unroll::test;

TEST_CASE("schedules of the teacher are Bengio's") {
  const Schedule linear = teacher::linear({.floor = 0.25, .offset = 0.9, .slope = 0.01});
  CHECK(linear(0) == 0.9);
  CHECK(linear(10) == Approx(0.8));
  CHECK(linear(65) == Approx(0.25));
  CHECK(linear(1000) == 0.25);
  const Schedule sigmoid = teacher::inverse_sigmoid(20);
  CHECK(sigmoid(0) == Approx(20.0 / 21));
  CHECK(sigmoid(40) == Approx(20 / (20 + std::exp(2.0))));
  CHECK(sigmoid(1'000'000) == 0);
  for (const double half : {0.0, 1.0, 50.0, 1000.0, 250'000.0}) {
    const double k = teacher::inverse_sigmoid_k(half);
    CHECK(k * std::log(k) == Approx(half).margin(1e-9));
  }
  CHECK(teacher::inverse_sigmoid(teacher::inverse_sigmoid_k(700))(700) == Approx(0.5));
  CHECK(teacher::constant(0.3)(99) == 0.3);
  CHECK(has(message_of([] { teacher::constant(1.5); }), "1.5"));
  CHECK(has(message_of([] { teacher::inverse_sigmoid(0.5); }), "below 1"));
  CHECK(has(message_of([] { teacher::linear({.slope = -1}); }), "slope"));
}

TEST_CASE("a sampled input is right, or the model's own, as often as asked") {
  // Many copies of one pair, so that frequencies can be counted.
  const std::vector<SequencePair> pairs(400, SequencePair{{4, 5, 6}, {7, 4, 6, 5}});
  const PairBatch batch = pair_batch(pairs);
  for (const auto& [name, config] : {seq2seq_configs()[4], seq2seq_configs().back()}) {
    CAPTURE(name);
    const auto model = make(config);
    const Decoding start = model->encode(batch.source, batch.lengths);
    const Tensor predicted = argmax(model->decode(batch.inputs, start).output);
    Generator generator(2), again(2);
    const SamplingOptions options{.teacher = 0.7, .two_pass = true};
    const Tensor read = scheduled_inputs(*model, start, batch.inputs, options, generator);
    CHECK(same_bits(read, scheduled_inputs(*model, start, batch.inputs, options, again)));
    std::int64_t own = 0, places = 0;
    const std::int64_t b = batch.inputs.size(1);
    for (std::int64_t i = 0; i < read.numel(); ++i) {
      const std::int64_t value = read.ptr<std::int64_t>()[i];
      const std::int64_t right = batch.inputs.ptr<std::int64_t>()[i];
      if (i < b) {
        CHECK(value == start_token);
        continue;
      }
      const std::int64_t before = predicted.ptr<std::int64_t>()[i - b];
      CHECK((value == right || value == before));
      if (right == before) continue;
      ++places;
      own += value == before ? 1 : 0;
    }
    REQUIRE(places >= 400);
    CHECK(std::abs(static_cast<double>(own) / static_cast<double>(places) - 0.3) < 0.06);
  }
}

TEST_CASE("sampled inputs give the values and gradients of a loop that predicts as it goes") {
  const PairBatch batch = pair_batch(some_pairs());
  const std::int64_t steps = batch.inputs.size(0), count = batch.inputs.size(1);
  for (const auto& [name, config] : seq2seq_configs())
    for (const double p : {0.0, 0.5}) {
      CAPTURE(name, p);
      const auto model = make(config);
      // The twin: recorded step by step, each prediction made where it is read.
      const auto loop = [&](Generator generator) {
        Decoding at = model->encode(batch.source, batch.lengths);
        std::vector<bool> kept;
        for (std::int64_t i = 0; i < steps * count; ++i) kept.push_back(generator.uniform() < p);
        Tensor tokens = batch.inputs.row(0).clone();
        std::vector<Tensor> logits;
        for (std::int64_t t = 0; t < steps; ++t) {
          logits.push_back(model->step(tokens, at));
          const Tensor best = argmax(logits.back());
          if (t + 1 == steps) break;
          tokens = batch.inputs.row(t + 1).clone();
          for (std::int64_t b = 0; b < count; ++b)
            if (!kept[static_cast<std::size_t>((t + 1) * count + b)])
              tokens.mutable_ptr<std::int64_t>()[b] = best.ptr<std::int64_t>()[b];
        }
        return cross_entropy(stack(logits), batch.targets);
      };
      const auto run = [&](bool twin) {
        model->zero_grad();
        Generator generator(9);
        Tape tape;
        const Tensor loss =
            twin ? loop(generator)
                 : seq2seq_loss(*model, batch, generator, {.sampling = {.teacher = p}});
        tape.backward(loss);
        std::vector<Tensor> all{loss.detach()};
        for (const Parameter& one : model->parameters()) all.push_back(one.grad().clone());
        return all;
      };
      const auto a = run(false), b = run(true);
      for (std::size_t i = 0; i < a.size(); ++i) CHECK(difference(a[i], b[i]) < 1e-11);
      CHECK(model->training());
    }
}

TEST_CASE("with the teacher always there nothing is drawn") {
  const PairBatch batch = pair_batch(some_pairs());
  const auto model = make(seq2seq_configs()[3].config);
  Generator generator(1);
  const Decoding start = model->encode(batch.source, batch.lengths);
  CHECK(same_bits(scheduled_inputs(*model, start, batch.inputs, {}, generator), batch.inputs));
  CHECK(generator.position() == 0);
  CHECK(has(message_of([&] {
              scheduled_inputs(*model, start, batch.inputs, {.teacher = 1.1}, generator);
            }),
            "1.1"));
}

TEST_CASE("exposure is counted symbol by symbol, by length") {
  const std::vector<SequencePair> pairs = some_pairs();
  for (const auto& [name, config] : {seq2seq_configs()[4], seq2seq_configs().back()}) {
    CAPTURE(name);
    const auto model = make(config);
    const auto points = measure_exposure(*model, pairs, 2, 2);
    REQUIRE(points.size() == 3);  // 3 and 4, 5, all
    CHECK(points[0].shortest == 3);
    CHECK(points[0].longest == 4);
    CHECK(points[1].shortest == 5);
    CHECK(points[2].symbols == 12);
    CHECK(points[2].sequences == 3);
    // One pair after the other, by hand.
    double taught = 0, alone = 0, exact = 0;
    for (const SequencePair& pair : pairs) {
      const PairBatch one = pair_batch(std::span(&pair, 1));
      const Decoding start = model->encode(one.source);
      Decoding free = start;
      Tensor token = one.inputs.row(0);
      const Tensor forced = argmax(model->decode(one.inputs, start).output);
      double right = 0;
      for (std::int64_t t = 0; t < one.inputs.size(0); ++t) {
        const std::int64_t target = one.targets.ptr<std::int64_t>()[t];
        taught += forced.ptr<std::int64_t>()[t] == target ? 1 : 0;
        token = argmax(model->step(token, free));
        right += token.ptr<std::int64_t>()[0] == target ? 1 : 0;
      }
      alone += right;
      exact += right == static_cast<double>(one.inputs.size(0)) ? 1 : 0;
    }
    CHECK(points[2].teacher_forced == Approx(taught / 12));
    CHECK(points[2].free_running == Approx(alone / 12));
    CHECK(points[2].exact == Approx(exact / 3));
    CHECK(points[0].symbols * points[0].teacher_forced +
              points[1].symbols * points[1].teacher_forced ==
          Approx(taught));
  }
  CHECK(has(message_of([&] { measure_exposure(*make(seq2seq_configs()[0].config), {}, 2, 1); }),
            "no pairs"));
}

TEST_CASE("a mean loss does not depend on how pairs are put together") {
  const std::vector<SequencePair> pairs = some_pairs();
  const auto model = make(seq2seq_configs()[3].config);
  CHECK(mean_symbol_loss(*model, pairs, 1) == Approx(mean_symbol_loss(*model, pairs, 3)));
}

TEST_CASE("training with scheduled sampling is resumed bit for bit, and learns") {
  std::vector<SequencePair> pairs;  // the source turned round
  Generator draw(4);
  for (int i = 0; i < 200; ++i) {
    SequencePair pair;
    for (std::int64_t n = 1 + draw.below(4); n > 0; --n) pair.source.push_back(4 + draw.below(4));
    pair.target.assign(pair.source.rbegin(), pair.source.rend());
    pairs.push_back(pair);
  }
  const RandomPairs batches(pairs, 8);
  const Seq2SeqConfig config{.kind = ModelKind::gru,
                             .source_vocabulary = 8,
                             .target_vocabulary = 8,
                             .embedding = 8,
                             .hidden = 24,
                             .dropout = 0.05};
  const TemporaryDirectory folder;
  const auto run = [&](std::int64_t steps, const std::string& checkpoint) {
    Generator generator(6);
    const auto model = make_seq2seq(config, generator);
    Adam optimizer(model->parameters(), {.learning_rate = 1e-2});
    const Schedule teacher = teacher::linear({.slope = 1.0 / 150});
    const Objective objective{.loss =
                                  [&](std::int64_t step, Generator& g, std::int64_t& tokens) {
                                    const PairBatch batch = batches.next(g);
                                    tokens += batch.inputs.numel();
                                    return seq2seq_loss(*model, batch, g,
                                                        {.sampling = {.teacher = teacher(step)}});
                                  },
                              .evaluate = [&] { return mean_symbol_loss(*model, pairs, 50); }};
    const TrainResult result =
        train(*model, optimizer, objective, generator,
              {.steps = steps, .checkpoint = checkpoint, .resume = true, .label = ""});
    return std::pair(model->state_dict(), result);
  };
  const auto [whole, result] = run(150, "");
  CHECK(result.tokens > 0);
  CHECK(result.best_loss < 0.5);  // knowing nothing: more than 1
  const std::string checkpoint = (folder / "checkpoint.safetensors").string();
  run(60, checkpoint);
  CHECK(same_bits(run(150, checkpoint).first, whole));
}

TEST_CASE("random batches of pairs: every pair alike, similar lengths together") {
  std::vector<SequencePair> pairs;
  for (std::int64_t i = 0; i < 40; ++i)
    pairs.push_back({{4 + i}, std::vector<std::int64_t>(static_cast<std::size_t>(i % 10), 4)});
  const RandomPairs batches(pairs, 5);
  Generator generator(1);
  std::vector<int> seen(40);
  double spread = 0;
  for (int i = 0; i < 2000; ++i) {
    const PairBatch b = batches.next(generator);
    for (const std::int64_t symbol : b.source.data<std::int64_t>())
      ++seen[static_cast<std::size_t>(symbol - 4)];
    std::vector<std::int64_t> lengths;
    for (std::int64_t k = 0; k < 5; ++k) {
      std::int64_t n = 0;
      while (b.targets.ptr<std::int64_t>()[n * 5 + k] != end_token) ++n;
      lengths.push_back(n);
    }
    spread += static_cast<double>(*std::max_element(lengths.begin(), lengths.end()) -
                                  *std::min_element(lengths.begin(), lengths.end()));
  }
  for (const int count : seen) CHECK(std::abs(count - 250) < 80);  // 5 deviations
  CHECK(spread / 2000 < 1.5);                                      // unsorted: 6
  CHECK(has(message_of<DataError>([&] { RandomPairs({}, 5); }), "no pairs"));
}
