#include <unroll/layers/sequence_encoder.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/reduce.h>

#include "../catch.h"

using namespace unroll;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) { return max(abs(a - b)).item(); }

}  // namespace

TEST_CASE("a padded batch is encoded as its sequences alone", "[layers]") {
  for (const char* kind : {"lstm", "gru", "transformer"})
    for (const bool bidirectional : {false, true}) {
      CAPTURE(kind, bidirectional);
      Generator g(1);
      SequenceEncoder encoder({.kind = kind,
                               .input_size = 3,
                               .hidden_size = 8,
                               .num_layers = 2,
                               .bidirectional = bidirectional,
                               .heads = 2},
                              g);
      encoder.to(DType::f64);
      encoder.eval();
      const Tensor x = g.normal({6, 2, 3}, 0, 1, DType::f64);
      const Tensor lengths = Tensor::from<std::int64_t>({4, 6}, {2});
      const Tensor all = encoder(x, lengths), summary = encoder.summary_of(x, lengths);
      REQUIRE(all.shape() == Shape{6, 2, encoder.output_size()});
      REQUIRE(summary.shape() == Shape{2, encoder.output_size()});
      for (std::int64_t b = 0; b < 2; ++b) {
        const std::int64_t length = b == 0 ? 4 : 6;
        const Tensor alone = slice(slice(x, 1, b, b + 1), 0, 0, length);
        CHECK(largest_difference(encoder(alone), slice(slice(all, 1, b, b + 1), 0, 0, length)) <
              1e-12);
        CHECK(largest_difference(encoder.summary_of(alone), slice(summary, 0, b, b + 1)) < 1e-12);
      }
    }
}

TEST_CASE("a summary is the last states of a recurrent stack, a Transformer's mean", "[layers]") {
  Generator g(2);
  const Tensor x = g.normal({5, 1, 3}, 0, 1);
  SequenceEncoder lstm({.kind = "lstm", .input_size = 3, .hidden_size = 4, .num_layers = 2}, g);
  const Tensor states = lstm(x);  // forward ends at the last step, backward at the first
  const Tensor ends =
      concat({slice(select(states, 0, 4), 1, 0, 4), slice(select(states, 0, 0), 1, 4)}, 1);
  CHECK(largest_difference(lstm.summary_of(x), ends) == 0);
  SequenceEncoder transformer(
      {.kind = "transformer", .input_size = 3, .hidden_size = 8, .heads = 2}, g);
  CHECK(largest_difference(transformer.summary_of(x), mean(transformer(x), {0})) == 0);
  CHECK(has(message_of([] { SequenceEncoder({.kind = "mamba", .input_size = 3}); }),
            "Known: lstm, gru, transformer"));
}
