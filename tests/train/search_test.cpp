// Beam search against every hypothesis that there is.

#include <unroll/ops/reduce.h>
#include <unroll/ops/softmax.h>
#include <unroll/train/search.h>

#include <algorithm>
#include <cmath>

#include "../catch.h"
#include "../tensors.h"
#include "seq2seq.h"

using namespace unroll;
using namespace unroll::test;

namespace {

constexpr std::int64_t vocabulary = 5, end = 2;

std::unique_ptr<Seq2Seq> tiny(ModelKind kind, std::uint64_t seed) {
  Generator generator(seed);
  auto model = make_seq2seq({.kind = kind,
                             .source_vocabulary = source_symbols,
                             .target_vocabulary = vocabulary,
                             .embedding = 4,
                             .hidden = 8,
                             .heads = 2},
                            generator);
  // Sharper than it starts, so that hypotheses differ.
  for (auto& [name, parameter] : model->named_parameters())
    if (name == "head.weight")
      for (float& one : parameter.mutable_value().mutable_data<float>()) one *= 6;
  model->eval();
  return model;
}

std::vector<Hypothesis> exhaustive(Seq2Seq& model, const Decoding& at, std::int64_t last,
                                   const SearchOptions& options) {
  std::vector<Hypothesis> all;
  const auto go = [&](auto&& self, const Decoding& from, std::int64_t token,
                      const std::vector<std::int64_t>& tokens, double sum) -> void {
    Decoding next = from;
    const Tensor p = log_softmax(model.step(Tensor::from({token}, {1}), next));
    const auto length = static_cast<std::int64_t>(tokens.size()) + 1;
    const double penalty = std::pow((5 + static_cast<double>(length)) / 6, options.length_penalty);
    for (std::int64_t v = 0; v < vocabulary; ++v) {
      const double total = sum + static_cast<double>(p.ptr<float>()[v]);
      std::vector<std::int64_t> longer = tokens;
      if (v != end) longer.push_back(v);
      if (v == end || length == options.max_length)
        all.push_back({longer, total, total / penalty, v == end});
      else
        self(self, next, v, longer, total);
    }
  };
  go(go, at, last, {}, 0);
  std::sort(all.begin(), all.end(), [](const Hypothesis& a, const Hypothesis& b) {
    return std::pair(!a.finished, -a.score) < std::pair(!b.finished, -b.score);
  });
  return all;
}

}  // namespace

TEST_CASE("a beam as wide as all hypotheses finds the best ones, in order") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const ModelKind kind : {ModelKind::gru, ModelKind::transformer})
    for (const double alpha : {0.0, 0.6, 2.0})
      for (const std::uint64_t seed : {1u, 2u}) {
        CAPTURE(to_string(kind), alpha, seed);
        const auto model = tiny(kind, seed);
        const SearchOptions options{
            .beam = 4 * 4 * 4 * 5, .max_length = 4, .length_penalty = alpha};
        const auto found = translate(*model, batch.source, batch.lengths, options);
        REQUIRE(found.size() == 3);
        for (std::int64_t b = 0; b < 3; ++b) {
          const Decoding start =
              model->rows(model->encode(batch.source, batch.lengths), std::vector{b});
          const auto expected = exhaustive(*model, start, 1, options);
          const auto& got = found[static_cast<std::size_t>(b)];
          REQUIRE(got.size() >= 10);
          for (std::size_t i = 0; i < 10; ++i) {
            CHECK(got[i].tokens == expected[i].tokens);
            CHECK(got[i].score == Approx(expected[i].score).epsilon(1e-5));
            CHECK(got[i].finished == expected[i].finished);
          }
        }
      }
}

TEST_CASE("a narrower beam finds no better, a wider one no worse, and its sums are right") {
  const PairBatch batch = pair_batch(some_pairs());
  int better = 0;
  for (const ModelKind kind : {ModelKind::lstm, ModelKind::transformer})
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
      const auto model = tiny(kind, seed);
      const auto best = [&](std::int64_t beam) {
        std::vector<double> scores;
        for (const auto& one :
             translate(*model, batch.source, batch.lengths, {.beam = beam, .max_length = 5})) {
          REQUIRE(one.size() <= static_cast<std::size_t>(beam));
          for (std::size_t i = 1; i < one.size(); ++i)
            if (one[i].finished) CHECK(one[i - 1].score >= one[i].score);
          scores.push_back(one[0].finished ? one[0].score : -1e9);
        }
        return scores;
      };
      const auto greedy = best(1), wide = best(1024);
      for (std::size_t b = 0; b < 3; ++b) {
        CHECK(wide[b] >= greedy[b] - 1e-5);
        better += wide[b] > greedy[b] + 1e-5 ? 1 : 0;
      }
    }
  CHECK(better > 0);
}

TEST_CASE("a beam of one takes the most likely symbol at every step") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const ModelKind kind : {ModelKind::rnn, ModelKind::transformer})
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      CAPTURE(to_string(kind), seed);
      const auto model = tiny(kind, seed);
      const auto found = translate(*model, batch.source, batch.lengths, {.max_length = 6});
      for (std::int64_t b = 0; b < 3; ++b) {
        Decoding at = model->rows(model->encode(batch.source, batch.lengths), std::vector{b});
        std::vector<std::int64_t> tokens;
        Tensor token = Tensor::from<std::int64_t>({1}, {1});
        bool finished = false;
        for (int t = 0; t < 6 && !finished; ++t) {
          token = argmax(model->step(token, at));
          finished = token.item() == end;
          if (!finished) tokens.push_back(token.ptr<std::int64_t>()[0]);
        }
        REQUIRE(found[static_cast<std::size_t>(b)].size() == 1);
        const Hypothesis& one = found[static_cast<std::size_t>(b)][0];
        CHECK(one.tokens == tokens);
        CHECK(one.finished == finished);
      }
    }
}

TEST_CASE("a search branches from any earlier state") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const ModelKind kind : {ModelKind::lstm, ModelKind::transformer}) {
    CAPTURE(to_string(kind));
    const auto model = tiny(kind, 3);
    const SearchOptions options{.beam = 4 * 4 * 5, .max_length = 3};
    Decoding at =
        model->rows(model->encode(batch.source, batch.lengths), std::vector<std::int64_t>{1});
    model->step(Tensor::from<std::int64_t>({1}, {1}), at);
    const Decoding kept = at;  // a search of its own, then back
    model->step(Tensor::from<std::int64_t>({3}, {1}), at);
    const std::vector<std::int64_t> twice{0, 0};
    const auto found = beam_search(*model, model->rows(kept, twice),
                                   Tensor::from<std::int64_t>({3, 4}, {2}), options);
    const auto later = beam_search(*model, at, Tensor::from<std::int64_t>({0}, {1}), options);
    for (const std::int64_t first : {3, 4}) {
      const auto expected = exhaustive(*model, kept, first, options);
      const auto& got = found[static_cast<std::size_t>(first - 3)];
      for (std::size_t i = 0; i < 5; ++i) CHECK(got[i].tokens == expected[i].tokens);
    }
    CHECK(later[0][0].tokens == exhaustive(*model, at, 0, options)[0].tokens);
  }
}

TEST_CASE("options that make no search are refused") {
  const auto model = tiny(ModelKind::gru, 1);
  const PairBatch batch = pair_batch(some_pairs());
  const auto message = [&](const SearchOptions& options) {
    return message_of([&] { translate(*model, batch.source, batch.lengths, options); });
  };
  CHECK(has(message({.beam = 0}), "beam of 0"));
  CHECK(has(message({.max_length = 0}), "max_length"));
  CHECK(has(message({.length_penalty = -1}), "length_penalty"));
  CHECK(has(message({.end = vocabulary}), "end is symbol 5 of a vocabulary of 5"));
  CHECK(has(message({.end = -1}), "end is symbol -1"));
}

TEST_CASE("a search over scores that are no numbers says at which step") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const ModelKind kind : {ModelKind::gru, ModelKind::transformer}) {
    CAPTURE(to_string(kind));
    const auto model = tiny(kind, 1);
    for (auto& [name, parameter] : model->named_parameters())
      if (name == "target_embed.weight") {
        auto values = parameter.mutable_value().mutable_data<float>();
        const std::size_t width = values.size() / vocabulary;
        for (std::size_t i = 0; i < values.size(); ++i)
          if (i / width != 1) values[i] = NAN;  // all but <s>
      }
    for (const std::int64_t beam : {4, 8})
      CHECK(has(message_of([&] {
                  translate(*model, batch.source, batch.lengths, {.beam = beam, .max_length = 3});
                }),
                "scores at step 2 are NaN"));
  }
}
