// Cross-attention over a memory that was projected once equals projecting it at every call.

#include <unroll/graph/tape.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/reduce.h>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

// The decoder's parameters' gradients, and the memory's, behind those of the output.
std::vector<Tensor> gradients(Module& model, const Tensor& memory,
                              const std::function<Tensor(const Tensor&)>& f) {
  model.zero_grad();
  const Parameter leaf(memory.clone());
  Tape tape;
  const Tensor y = f(Tensor(leaf));
  tape.backward(sum(y * y));
  std::vector<Tensor> all{y, leaf.grad().clone()};
  for (const Parameter& one : model.parameters()) all.push_back(one.grad().clone());
  return all;
}

}  // namespace

TEST_CASE("a memory that a decoder projects once gives what it gives itself", "[layers]") {
  const Tensor lengths = Tensor::from<std::int64_t>({4, 2, 3}, {3});
  for (const bool batch_first : {false, true})
    for (const bool norm_first : {false, true})
      for (const bool bias : {false, true}) {
        CAPTURE(batch_first, norm_first, bias);
        Generator generator(3);
        TransformerDecoder decoder({.d_model = 8,
                                    .nhead = 2,
                                    .num_layers = 3,
                                    .norm_first = norm_first,
                                    .bias = bias,
                                    .batch_first = batch_first},
                                   generator);
        decoder.to(DType::f64);
        const auto along = [&](const Tensor& x) { return batch_first ? transpose(x, 0, 1) : x; };
        const Tensor x = along(normal({5, 3, 8}, 1)), memory = along(normal({4, 3, 8}, 2));
        const auto a = gradients(decoder, memory, [&](const Tensor& m) {
          return decoder(x, {.causal = true, .memory = m, .memory_lengths = lengths}).output;
        });
        const auto b = gradients(decoder, memory, [&](const Tensor& m) {
          return decoder(
                     x,
                     {.causal = true, .projected = decoder.project(m), .memory_lengths = lengths})
              .output;
        });
        REQUIRE(a.size() == b.size());
        for (std::size_t i = 0; i < a.size(); ++i) CHECK(difference(a[i], b[i]) < 1e-12);
      }
}

TEST_CASE("attention turns the keys of a rotary memory alike, projected before or at the call",
          "[layers]") {
  Generator generator(4);
  MultiHeadAttention attention({.embed_dim = 8, .num_heads = 2, .rotary = true}, generator);
  attention.to(DType::f64);
  const Tensor x = normal({2, 3, 8}, 1), memory = normal({5, 3, 8}, 2);
  const Tensor kept = attention.keys_and_values(memory);
  CHECK(kept.shape() == Shape{5, 3, 16});
  CHECK(difference(attention(x, {.projected = kept}).output,
                   attention(x, {.memory = memory}).output) < 1e-12);
}

TEST_CASE("a projected memory that does not fit is refused", "[layers]") {
  Generator generator(5);
  TransformerDecoder decoder({.d_model = 8, .nhead = 2, .num_layers = 2}, generator);
  const Tensor x = Tensor::zeros({2, 3, 8}), memory = Tensor::zeros({4, 3, 8});
  const State projected = decoder.project(memory);
  CHECK(has(message_of([&] { decoder(x, {.projected = {projected[0]}}); }), "1 tensors for 2"));
  CHECK(has(message_of([&] { decoder(x, {.projected = {memory, memory}}); }), "keys_and_values"));
  CHECK(has(message_of([&] { decoder(x); }), "project()"));
  CHECK(has(message_of([&] { decoder(x, {.memory = memory, .projected = projected}); }),
            "which of them"));
  CHECK(has(message_of([&] {
              decoder.layer(0).multihead_attn(x, {.memory = memory, .projected = projected[0]});
            }),
            "which of them"));
  CHECK(has(message_of([&] { decoder.project(Tensor::zeros({4, 3, 6})); }), "the last 8"));
}
