// Encoder-decoders: gradients, padding, and one step at a time against the whole target.

#include "seq2seq.h"

#include <unroll/graph/gradient_check.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>
#include <unroll/train/teacher_forcing.h>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;
using namespace unroll::test;

namespace {

std::vector<Tensor> gradients(Seq2Seq& model, const std::function<Tensor()>& loss) {
  model.zero_grad();
  Tape tape;
  tape.backward(loss());
  std::vector<Tensor> all;
  for (const Parameter& one : model.parameters()) all.push_back(one.grad().clone());
  return all;
}

}  // namespace

TEST_CASE("the attention of a decoder has right gradients and the published scores") {
  const std::int64_t batch = 2, steps = 3, query = 4, memory = 4;
  const Tensor mask = permute(length_mask("attention", Tensor::from<std::int64_t>({3, 2}, {batch}),
                                          steps, batch, DType::f64, Where::current()),
                              {1, 2, 0});
  for (const AttentionScore score :
       {AttentionScore::additive, AttentionScore::general, AttentionScore::dot}) {
    CAPTURE(to_string(score));
    Generator generator(5);
    DecoderAttention attention(
        {.query_size = query, .memory_size = memory, .attention_size = 5, .score = score},
        generator);
    attention.to(DType::f64);
    const std::vector<Tensor> in{normal({batch, query}, 1), normal({batch, steps, memory}, 2)};
    const TensorFunction f = [&](std::span<const Tensor> args) -> std::vector<Tensor> {
      const auto [context, weights] = attention(args[0], attention.keys(args[1]), args[1], mask);
      return {context, weights};
    };
    const std::vector<std::size_t> wrt{0, 1};
    CHECK(gradient_error(f, in, wrt) < 1e-8);

    // The definition, number by number.
    std::map<std::string, Tensor> p = attention.state_dict();
    const auto at = [](const Tensor& m, std::int64_t i, std::int64_t j) {
      return m.ptr<double>()[i * m.size(m.rank() - 1) + j];
    };
    const std::vector<Tensor> got = f(in);
    for (std::int64_t b = 0; b < batch; ++b) {
      std::vector<double> e;
      for (std::int64_t s = 0; s < (b == 0 ? 3 : 2); ++s) {
        const auto m = [&](std::int64_t j) { return at(in[1], b * steps + s, j); };
        const auto q = [&](std::int64_t j) { return at(in[0], b, j); };
        double sum = 0;
        if (score == AttentionScore::dot)
          for (std::int64_t j = 0; j < query; ++j) sum += q(j) * m(j);
        if (score == AttentionScore::general)
          for (std::int64_t i = 0; i < query; ++i)
            for (std::int64_t j = 0; j < memory; ++j)
              sum += q(i) * at(p.at("key.weight"), i, j) * m(j);
        if (score == AttentionScore::additive)
          for (std::int64_t i = 0; i < 5; ++i) {
            double inner = 0;
            for (std::int64_t j = 0; j < query; ++j)
              inner += at(p.at("query.weight"), i, j) * q(j) + at(p.at("key.weight"), i, j) * m(j);
            sum += at(p.at("energy.weight"), 0, i) * std::tanh(inner);
          }
        e.push_back(std::exp(sum));
      }
      double total = 0;
      for (const double one : e) total += one;
      for (std::int64_t s = 0; s < steps; ++s) {
        const double expected =
            s < static_cast<std::int64_t>(e.size()) ? e[static_cast<std::size_t>(s)] / total : 0;
        CHECK(at(got[1], b, s) == Approx(expected).margin(1e-12));
      }
      for (std::int64_t j = 0; j < memory; ++j) {
        double mean = 0;
        for (std::int64_t s = 0; s < steps; ++s)
          mean += at(got[1], b, s) * at(in[1], b * steps + s, j);
        CHECK(at(got[0], b, j) == Approx(mean).margin(1e-12));
      }
    }
  }
}

TEST_CASE("gradients of an encoder-decoder's loss agree with differences") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const auto& [name, config] : seq2seq_configs()) {
    CAPTURE(name);
    const auto model = make(config);
    Generator generator(1);
    const auto loss = [&] { return seq2seq_loss(*model, batch, generator); };
    gradients(*model, loss);
    for (const auto& [parameter_name, handle] : model->named_parameters()) {
      CAPTURE(parameter_name);
      Parameter parameter = handle;
      REQUIRE(parameter.grad().defined());
      const std::int64_t stride = std::max<std::int64_t>(1, parameter.numel() / 4);
      for (std::int64_t i = 0; i < parameter.numel(); i += stride) {
        const Tensor before = parameter.value().clone();
        const auto at = [&](double shift) {
          Tensor moved = before.clone();
          moved.mutable_data<double>()[static_cast<std::size_t>(i)] += shift;
          parameter.set_value(moved);
          return loss().item();
        };
        const double h = 1e-4;
        const double rough = (at(2 * h) - at(-2 * h)) / (4 * h);
        const double numeric = (4 * (at(h) - at(-h)) / (2 * h) - rough) / 3;
        parameter.set_value(before);
        CHECK(parameter.grad().data<double>()[static_cast<std::size_t>(i)] ==
              Approx(numeric).epsilon(1e-6).margin(1e-8));
      }
    }
  }
}

TEST_CASE("a padded batch of pairs equals each pair alone") {
  const std::vector<SequencePair> pairs = some_pairs();
  const PairBatch batch = pair_batch(pairs);
  for (const auto& [name, config] : seq2seq_configs()) {
    CAPTURE(name);
    const auto model = make(config);
    PairBatch dirty = batch;  // what stands behind a source's end does not matter
    dirty.source = batch.source.clone();
    for (std::int64_t b = 0; b < 3; ++b)
      for (std::int64_t t = batch.lengths.ptr<std::int64_t>()[b]; t < batch.source.size(0); ++t)
        dirty.source.mutable_ptr<std::int64_t>()[t * 3 + b] = 8;
    const Tensor all =
        model->decode(dirty.inputs, model->encode(dirty.source, dirty.lengths)).output;
    Tensor sum;
    for (std::size_t b = 0; b < pairs.size(); ++b) {
      const PairBatch one = pair_batch(std::span(pairs).subspan(b, 1));
      const Tensor alone = model->decode(one.inputs, model->encode(one.source)).output;
      const auto column = static_cast<std::int64_t>(b);
      const Tensor part = slice(slice(all, 1, column, column + 1), 0, 0, alone.size(0));
      CHECK(difference(part, alone) < 1e-12);
    }
  }
}

TEST_CASE("a step at a time gives what the teacher-forced pass gives, values and gradients") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const DType dtype : {DType::f64, DType::f32})
    for (const auto& [name, config] : seq2seq_configs()) {
      CAPTURE(name, to_string(dtype));
      const auto model = make(config, dtype);
      const auto whole = [&] {
        return model->decode(batch.inputs, model->encode(batch.source, batch.lengths)).output;
      };
      const auto stepwise = [&] {
        Decoding at = model->encode(batch.source, batch.lengths);
        std::vector<Tensor> logits;
        for (std::int64_t t = 0; t < batch.inputs.size(0); ++t)
          logits.push_back(model->step(batch.inputs.row(t), at));
        return stack(logits);
      };
      const double tolerance = dtype == DType::f64 ? 1e-12 : 1e-5;
      CHECK(difference(whole(), stepwise()) < tolerance);
      if (config.kind == ModelKind::transformer && dtype == DType::f32) continue;
      const auto loss = [&](const Tensor& logits) { return cross_entropy(logits, batch.targets); };
      const auto a = gradients(*model, [&] { return loss(whole()); });
      const auto b = gradients(*model, [&] { return loss(stepwise()); });
      for (std::size_t i = 0; i < a.size(); ++i) CHECK(difference(a[i], b[i]) < tolerance);
      // From the middle on, with the state carried.
      Decoding at = model->encode(batch.source, batch.lengths);
      at.state = model->decode(batch.inputs.rows(0, 2), at).state;
      CHECK(difference(model->decode(batch.inputs.rows(2, 5), at).output, whole().rows(2, 5)) <
            tolerance);
    }
}

TEST_CASE("rows of a decoding go on as the sequences that they are") {
  const PairBatch batch = pair_batch(some_pairs());
  const std::vector<std::int64_t> order{2, 0, 0};
  for (const auto& [name, config] : seq2seq_configs()) {
    CAPTURE(name);
    const auto model = make(config);
    Decoding at = model->encode(batch.source, batch.lengths);
    model->step(batch.inputs.row(0), at);
    Decoding branched = model->rows(at, order);
    const Tensor next = Tensor::from<std::int64_t>({6, 7, 7}, {3});
    const Tensor old = Tensor::from<std::int64_t>({7, 5, 6}, {3});
    const Tensor a = model->step(old, at), b = model->step(next, branched);
    for (std::int64_t i = 0; i < 3; ++i)
      CHECK(difference(b.row(i), a.row(order[static_cast<std::size_t>(i)])) < 1e-12);
    CHECK(has(message_of([&] { model->rows(at, std::vector<std::int64_t>{3}); }), "batch of 3"));

    // Two hypotheses a source, which change places among themselves.
    const std::vector<std::int64_t> twice{0, 0, 1, 1}, swapped{1, 0, 2, 2};
    Decoding pairs = model->rows(model->encode(batch.source, batch.lengths), twice);
    model->step(Tensor::from<std::int64_t>({5, 6, 7, 4}, {4}), pairs);
    Decoding copied = model->rows(pairs, swapped), shared = model->reordered(pairs, swapped);
    const Tensor read = Tensor::from<std::int64_t>({4, 5, 6, 7}, {4});
    CHECK(same_bits(model->step(read, copied), model->step(read, shared)));
    CHECK(shared.memory[0].bytes() == pairs.memory[0].bytes());
    CHECK(has(message_of([&] { model->reordered(pairs, order); }), "3 rows for a batch of 4"));
  }
}

TEST_CASE("a Transformer's steps leave the keys and values of earlier ones where they are") {
  const PairBatch batch = pair_batch(some_pairs());
  Seq2SeqConfig config = seq2seq_configs().back().config;
  REQUIRE(config.kind == ModelKind::transformer);
  const auto model = make(config, DType::f32);
  model->eval();
  constexpr std::int64_t steps = 40;
  const auto symbols = [](std::int64_t t) {
    return Tensor::from({t % 8, (t + 3) % 8, t / 3 % 8}, {3});
  };
  Decoding grown = model->encode(batch.source, batch.lengths), at = grown;
  int moved = 0;
  const std::byte* place = nullptr;
  for (std::int64_t t = 0; t < steps; ++t) {
    Output next = model->decode(unsqueeze(symbols(t), 0), grown);  // its twin: joined every time
    grown.state = std::move(next.state);
    CHECK(same_bits(model->step(symbols(t), at), select(next.output, 0, 0)));
    moved += at.state[0].bytes() != place;
    place = at.state[0].bytes();
  }
  CHECK(moved <= 4);  // memory that doubles

  // Two ways on from one state, the first taken up again behind the second, and many steps at once.
  const Decoding kept = at;
  Decoding one = kept, other = kept;
  const Tensor first = model->step(symbols(1), one);
  const Tensor second = model->step(symbols(2), other);
  const Tensor third = model->step(symbols(5), one);
  const auto twin = [&](std::initializer_list<std::int64_t> read) {
    Tensor output;
    Decoding from = grown;
    for (const std::int64_t t : read) {
      Output next = model->decode(unsqueeze(symbols(t), 0), from);
      from.state = std::move(next.state);
      output = select(next.output, 0, 0);
    }
    return output;
  };
  CHECK(same_bits(first, twin({1})));
  CHECK(same_bits(second, twin({2})));
  CHECK(same_bits(third, twin({1, 5})));
  const Tensor both = stack(std::vector<Tensor>{symbols(1), symbols(5)});
  CHECK(same_bits(model->decode(both, kept).output, model->decode(both, grown).output));
  // From what a pass over several steps left, and in a tape, which needs each step's own.
  Decoding passed = model->encode(batch.source, batch.lengths);
  passed.state = model->decode(stack(std::vector<Tensor>{symbols(0), symbols(1)}), passed).state;
  Decoding stepped = model->encode(batch.source, batch.lengths);
  model->step(symbols(0), stepped);
  model->step(symbols(1), stepped);
  const Tensor a = model->step(symbols(2), passed);
  CHECK(difference(a, model->step(symbols(2), stepped)) < 1e-5);
  {
    Tape tape;
    Decoding recorded = stepped;
    const Tensor b = model->step(symbols(3), recorded);
    CHECK(same_bits(b, model->decode(unsqueeze(symbols(3), 0), stepped).output.viewed(b.shape())));
    tape.backward(sum(b));
  }
}

TEST_CASE("dropout of an encoder-decoder is active in training alone, and repeats itself") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const auto& [name, config] : seq2seq_configs(2, 0.4)) {
    CAPTURE(name);
    const auto run = [&](bool training) {
      const auto model = make(config);
      model->train(training);
      const auto logits = [&] {
        return model->decode(batch.inputs, model->encode(batch.source, batch.lengths)).output;
      };
      const Tensor first = logits();
      return std::pair(first, logits());
    };
    const auto [a, b] = run(true);
    CHECK(difference(a, b) > 1e-3);
    CHECK(same_bits(a, run(true).first));
    const auto [c, d] = run(false);
    CHECK(same_bits(c, d));
  }
}

TEST_CASE("what makes no encoder-decoder is refused") {
  Seq2SeqConfig config = seq2seq_configs()[0].config;
  const auto message = [&](auto change) {
    Seq2SeqConfig changed = config;
    change(changed);
    return message_of([&] { make_seq2seq(changed); });
  };
  CHECK(has(message([](auto& c) { c.hidden = 7; }), "odd"));
  CHECK(has(message([](auto& c) { c.layers = 0; }), "layers 0"));
  CHECK(has(message([](auto& c) { c.source_vocabulary = 0; }), "0 and 8"));
  CHECK(has(message_of([] { attention_score("cosine"); }), "additive, general, dot"));
  CHECK(has(message_of([] {
              DecoderAttention({.query_size = 3, .memory_size = 4, .score = AttentionScore::dot});
            }),
            "general"));
  const auto model = make_seq2seq(config);
  const Tensor source = Tensor::zeros({3, 2}, DType::i64);
  const auto encoded = [&](std::initializer_list<std::int64_t> lengths) {
    return model->encode(source,
                         Tensor::from(lengths, {static_cast<std::int64_t>(lengths.size())}));
  };
  CHECK(has(message_of([&] { encoded({2, 4}); }), "length 4 of row 1 is not within 0 to 3"));
  CHECK(has(message_of([&] { encoded({2}); }), "for a batch of 2"));
  CHECK_NOTHROW(encoded({0, 3}));
}
