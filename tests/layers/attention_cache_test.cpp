// Keys and values of earlier steps: in memory with room, against joining them.

#include <unroll/graph/tape.h>
#include <unroll/layers/attention.h>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

TEST_CASE("self-attention writes behind a cache with room what joining would give") {
  Generator generator(2);
  MultiHeadAttention layer({.embed_dim = 8, .num_heads = 2, .rotary = true}, generator);
  layer.eval();
  const Tensor x = generator.normal({5, 3, 8}, 0, 1);
  const State room{Tensor::zeros({6, 3, 16})};
  State joined;
  std::int64_t past = 0;
  for (const std::int64_t end : {2, 3, 5}) {
    const Tensor part = x.rows(past, end);
    const MultiHeadAttentionOutput twin = layer(part, {.causal = true, .cache = joined}),
                                   got = layer(part, {.causal = true, .cache = room, .past = past});
    joined = twin.cache;
    CHECK(same_bits(got.output, twin.output));
    CHECK(got.cache[0].bytes() == room[0].bytes());
    CHECK(same_bits(room[0].rows(0, end), joined[0]));
    past = end;
  }
  const auto message = [&](const State& cache, std::int64_t used) {
    return message_of([&] { layer(x.rows(0, 2), {.causal = true, .cache = cache, .past = used}); });
  };
  CHECK(has(message(room, 5), "behind 5 rows of f32 [6, 3, 16]"));
  CHECK(has(message(room, -1), "behind -1 rows"));
  CHECK(has(message({}, 0), "no cache"));
  Tape tape;
  CHECK(has(message(room, 0), "on a tape"));
}
