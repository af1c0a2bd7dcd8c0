// Fewer heads of keys and values than of queries equal as many, of which groups are the same.

#include <unroll/graph/gradient_check.h>
#include <unroll/graph/tape.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/reduce.h>

#include <cstring>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

constexpr std::int64_t width = 12, heads = 6, head = width / heads;

// The row of the grouped projection from which the ungrouped one's row comes.
std::int64_t source_row(std::int64_t row, std::int64_t kv_heads) {
  if (row < width) return row;
  const std::int64_t part = (row - width) / width, column = (row - width) % width;
  return width + part * kv_heads * head + column / head / (heads / kv_heads) * head + column % head;
}

Tensor repeated(const Tensor& grouped, std::int64_t kv_heads) {
  const std::int64_t size = grouped.numel() / grouped.size(0);
  Tensor result = Tensor::empty(grouped.shape().with(0, 3 * width), DType::f64);
  for (std::int64_t row = 0; row < 3 * width; ++row)
    std::memcpy(result.mutable_ptr<double>() + row * size,
                grouped.ptr<double>() + source_row(row, kv_heads) * size,
                static_cast<std::size_t>(size) * sizeof(double));
  return result;
}

// The gradients of repeated rows, summed where they came from.
Tensor gathered(const Tensor& wide, std::int64_t kv_heads) {
  const std::int64_t size = wide.numel() / wide.size(0);
  Tensor result = Tensor::zeros(wide.shape().with(0, width + 2 * kv_heads * head), DType::f64);
  for (std::int64_t row = 0; row < 3 * width; ++row)
    for (std::int64_t i = 0; i < size; ++i)
      result.mutable_ptr<double>()[source_row(row, kv_heads) * size + i] +=
          wide.ptr<double>()[row * size + i];
  return result;
}

}  // namespace

TEST_CASE("grouped key-value heads equal repeated ones, values and gradients", "[layers]") {
  const Tensor x = normal({5, 3, width}, 1), memory = normal({4, 3, width}, 2);
  const Tensor lengths = Tensor::from<std::int64_t>({4, 2, 3}, {3});
  for (const std::int64_t kv_heads : {1, 2, 3, 6})
    for (const bool rotary : {false, true})
      for (const bool bias : {false, true})
        for (const bool cross : {false, true}) {
          CAPTURE(kv_heads, rotary, bias, cross);
          MultiHeadAttentionOptions options{.embed_dim = width,
                                            .num_heads = heads,
                                            .kv_heads = kv_heads,
                                            .bias = bias,
                                            .rotary = rotary};
          Generator one(3), two(4);
          MultiHeadAttention grouped(options, one);
          options.kv_heads = 0;
          MultiHeadAttention wide(options, two);
          for (MultiHeadAttention* layer : {&grouped, &wide}) layer->to(DType::f64);
          CHECK(grouped.in_proj_weight.shape() == Shape{width + 2 * kv_heads * head, width});
          if (bias) grouped.in_proj_bias.set_value(normal(grouped.in_proj_bias.shape(), 5));
          StateDict state = grouped.state_dict();
          for (auto& [name, tensor] : state)
            if (name.starts_with("in_proj")) tensor = repeated(tensor, kv_heads);
          wide.load_state_dict(state);

          const AttentionCall call = cross ? AttentionCall{.memory = memory, .lengths = lengths}
                                           : AttentionCall{.causal = true};
          const auto run = [&](MultiHeadAttention& layer) {
            layer.zero_grad();
            Tape tape;
            const Tensor y = layer(x, call).output;
            tape.backward(sum(y * y));
            return y.clone();
          };
          CHECK(difference(run(grouped), run(wide)) < 1e-12);
          CHECK(difference(grouped.in_proj_weight.grad(),
                           gathered(wide.in_proj_weight.grad(), kv_heads)) < 1e-11);
          if (bias)
            CHECK(difference(grouped.in_proj_bias.grad(),
                             gathered(wide.in_proj_bias.grad(), kv_heads)) < 1e-11);
          CHECK(difference(grouped.out_proj.weight.grad(), wide.out_proj.weight.grad()) < 1e-11);
          const TensorFunction f = [&](std::span<const Tensor> in) -> std::vector<Tensor> {
            AttentionCall with = call;
            if (cross) with.memory = in[1];
            return {grouped(in[0], with).output};
          };
          const std::vector<Tensor> in{x, memory};
          const std::vector<std::size_t> wrt =
              cross ? std::vector<std::size_t>{0, 1} : std::vector<std::size_t>{0};
          CHECK(gradient_error(f, in, wrt) < 1e-7);
        }
}

TEST_CASE("a cache of grouped heads is narrower, and goes on as the whole sequence", "[layers]") {
  Generator generator(6);
  TransformerEncoder encoder({.d_model = width,
                              .nhead = heads,
                              .kv_heads = 2,
                              .num_layers = 2,
                              .norm_first = true,
                              .rotary = true},
                             generator);
  encoder.to(DType::f64);
  const Tensor x = normal({6, 3, width}, 7);
  for (const bool training : {false, true}) {
    encoder.train(training);
    const Tensor whole = encoder(x, {.causal = true}).output;
    State cache;
    State roomy(2, Tensor::empty({8, 3, 2 * 2 * head}, DType::f64));
    for (Tensor& one : roomy) one = one.clone();
    for (std::int64_t t = 0; t < 6; ++t) {
      const Output joined = encoder(x.rows(t, t + 1), {.causal = true, .cache = cache});
      const Output written = encoder(x.rows(t, t + 1), {.causal = true, .cache = roomy, .past = t});
      CHECK(difference(joined.output, whole.rows(t, t + 1)) < 1e-12);
      CHECK(difference(written.output, whole.rows(t, t + 1)) < 1e-12);
      cache = joined.state;
    }
    if (!training) CHECK(cache[0].shape() == Shape{6, 3, 2 * 2 * head});
  }
}

TEST_CASE("a decoder's grouped heads read a memory projected once as the memory", "[layers]") {
  Generator generator(8);
  TransformerDecoder decoder({.d_model = width, .nhead = heads, .kv_heads = 3, .num_layers = 2},
                             generator);
  decoder.to(DType::f64);
  const Tensor x = normal({5, 3, width}, 1), memory = normal({4, 3, width}, 2);
  const State projected = decoder.project(memory);
  CHECK(projected[0].shape() == Shape{4, 3, 2 * 3 * head});
  CHECK(difference(decoder(x, {.memory = memory}).output,
                   decoder(x, {.projected = projected}).output) < 1e-12);
}

TEST_CASE("key-value heads that make no groups are refused, and a stream's step of them",
          "[layers]") {
  for (const std::int64_t kv_heads : {4, 12, -1})
    CHECK(has(message_of([&] {
                MultiHeadAttention({.embed_dim = width, .num_heads = heads, .kv_heads = kv_heads});
              }),
              std::to_string(kv_heads) + " heads of keys and values do not divide 6"));
  const MultiHeadAttention layer({.embed_dim = width, .num_heads = heads, .kv_heads = 2});
  CHECK(has(message_of([&] {
              layer.step(Tensor::zeros({3, width}), {Tensor::zeros({3, 4, 2 * width})},
                         {.position = Tensor::zeros({3}, DType::i64)});
            }),
            "2 heads of keys and values for 6"));
}
