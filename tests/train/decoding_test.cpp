// A Decoding that is not the model's, and tokens that are not the Decoding's, are told before
// anything is touched.

#include <unroll/graph/program.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>

#include "../catch.h"
#include "../tensors.h"
#include "seq2seq.h"

using namespace unroll;
using namespace unroll::test;

namespace {

NamedConfig config_of(ModelKind kind, int layers = 2) {
  for (NamedConfig& one : seq2seq_configs(layers))
    if (one.config.kind == kind) return one;
  return {};
}

Tensor tokens(std::int64_t batch) { return Tensor::full({batch}, 5, DType::i64); }

constexpr ModelKind all_kinds[] = {ModelKind::rnn, ModelKind::lstm, ModelKind::gru,
                                   ModelKind::transformer};

}  // namespace

TEST_CASE("tokens of another batch leave a decoding as it was") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const ModelKind kind : all_kinds) {
    CAPTURE(to_string(kind));
    const auto model = make(config_of(kind).config);
    Decoding at = model->encode(batch.source, batch.lengths);
    for (int before = 0; before < 2; ++before) {
      const Decoding kept = at;
      Decoding twin = model->rows(at, std::vector<std::int64_t>{0, 1, 2});
      for (const std::int64_t other : {1, 2, 4, 100}) {
        CAPTURE(other);
        CHECK(has(message_of([&] { model->step(tokens(other), at); }), "Decoding of 3 sequences"));
        CHECK(has(message_of([&] { model->decode(unsqueeze(tokens(other), 0), at); }),
                  "expected [T, 3]"));
      }
      // The right number of them, one of which is in no vocabulary.
      CHECK_THROWS_AS(model->step(Tensor::from<std::int64_t>({1, 2, target_symbols}, {3}), at),
                      Error);
      REQUIRE(at.state.size() == kept.state.size());
      for (std::size_t i = 0; i < at.state.size(); ++i)
        CHECK(at.state[i].bytes() == kept.state[i].bytes());
      const Tensor read = Tensor::from<std::int64_t>({4, 5, 6}, {3});
      CHECK(same_bits(model->step(read, at), model->step(read, twin)));
    }
  }
}

TEST_CASE("tokens and sources of other axes are refused") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const ModelKind kind : all_kinds) {
    CAPTURE(to_string(kind));
    const auto model = make(config_of(kind).config);
    Decoding at = model->encode(batch.source, batch.lengths);
    CHECK(has(message_of([&] { model->decode(tokens(3), at); }), "i64 [3], expected [T, 3]"));
    CHECK(has(message_of([&] { model->step(unsqueeze(tokens(3), 0), at); }),
              "i64 [1, 3], expected [3]"));
    CHECK(has(message_of([&] {
                model->decode(Tensor::empty({0, 3}, DType::i64), at);
              }),
              "i64 [0, 3]"));
    CHECK(has(message_of([&] { model->encode(tokens(5)); }), "i64 [5], expected [S, B]"));
    for (const Shape& shape : {Shape{0, 3}, Shape{4, 0}, Shape{2, 3, 1}})
      CHECK(has(message_of([&] { model->encode(Tensor::zeros(shape, DType::i64)); }),
                to_string(shape)));
  }
}

TEST_CASE("a decoding that is not the model's is refused") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const ModelKind kind : all_kinds) {
    CAPTURE(to_string(kind));
    const auto model = make(config_of(kind).config);
    const std::vector<std::int64_t> first{0};
    const auto refused = [&](const Decoding& wrong, const std::string& why) {
      Decoding at = wrong;
      CHECK(has(message_of([&] { model->step(tokens(3), at); }), why));
      CHECK(has(message_of([&] { model->decode(unsqueeze(tokens(3), 0), wrong); }), why));
      CHECK(has(message_of([&] { model->rows(wrong, first); }), why));
      CHECK(has(message_of([&] { model->reordered(wrong, first); }), why));
    };
    refused({}, "of no model");
    for (const ModelKind other : all_kinds) {
      if (other == kind) continue;
      Decoding at = make(config_of(other).config)->encode(batch.source, batch.lengths);
      refused(at, "of a model of kind " + std::string(to_string(other)));
    }
    // Of one more layer, begun and further on.
    const auto deeper = make(config_of(kind, 3).config);
    Decoding at = deeper->encode(batch.source, batch.lengths);
    for (int i = 0; i < 2; ++i) {
      refused(at, kind == ModelKind::transformer ? "3 memory tensors" : "state tensors");
      deeper->step(tokens(3), at);
    }
    Seq2SeqConfig wide = config_of(kind).config;
    wide.hidden = 8;
    refused(make(wide)->encode(batch.source, batch.lengths), "memory 0 of the Decoding is f64");
    refused(make(config_of(kind).config, DType::f32)->encode(batch.source, batch.lengths),
            "memory 0 of the Decoding is f32");
    // States that no step left.
    Decoding own = model->encode(batch.source, batch.lengths);
    model->step(tokens(3), own);
    Decoding broken = own;
    broken.state.back() = Tensor::zeros({1, 3}, DType::f32);
    refused(broken, "is f32 [1, 3]");
    broken.state.back() = Tensor();
    refused(broken, "is undefined");
    broken = own;
    broken.lengths = Tensor::zeros({2}, DType::i64);
    refused(broken, "lengths of the Decoding are i64 [2]");
    if (kind == ModelKind::transformer)
      for (const double steps : {0.0, 17.0}) {
        broken = own;
        broken.state.back() = Tensor::full({1, 3}, steps, DType::i64);
        refused(broken, "steps in a cache of 16");
      }
    CHECK(has(message_of([&] { model->rows(own, {}); }), "no sequence of a batch of 3"));
    CHECK_NOTHROW(model->step(tokens(3), own));
  }
}

TEST_CASE("a decoding that a trace left has no data to go on from") {
  const PairBatch batch = pair_batch(some_pairs());
  for (const ModelKind kind : all_kinds) {
    CAPTURE(to_string(kind));
    const auto model = make(config_of(kind).config);
    Decoding leaked;
    trace(
        [&](std::span<const Tensor> in) -> std::vector<Tensor> {
          leaked = model->encode(in[0], batch.lengths);
          return {model->decode(in[1], leaked).output};
        },
        std::vector<Tensor>{batch.source, batch.inputs});
    REQUIRE(leaked.memory[0].is_abstract());
    const std::vector<std::int64_t> first{0};
    CHECK(has(message_of([&] { model->step(tokens(3), leaked); }), "has no data"));
    CHECK(has(message_of([&] { model->decode(batch.inputs, leaked); }), "has no data"));
    CHECK(has(message_of([&] { model->rows(leaked, first); }), "has no data"));
  }
}

TEST_CASE("kinds of which there is no encoder-decoder are refused") {
  for (const ModelKind kind :
       {ModelKind::mamba, ModelKind::rwkv, ModelKind::mingru, ModelKind::minlstm}) {
    CAPTURE(to_string(kind));
    Seq2SeqConfig config = seq2seq_configs()[0].config;
    config.kind = kind;
    CHECK(has(message_of([&] { make_seq2seq(config); }),
              "kind " + std::string(to_string(kind)) + ". Known: rnn, lstm, gru, transformer"));
    CHECK(has(message_of([&] { seq2seq_kind(to_string(kind)); }), "rnn, lstm, gru, transformer"));
  }
  CHECK(seq2seq_kind("gru") == ModelKind::gru);
}
