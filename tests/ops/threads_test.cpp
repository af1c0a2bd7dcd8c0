#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/embedding.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/norm.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/softmax.h>

#include <functional>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

Tensor numbers(const Shape& shape, std::uint64_t seed = 1) {
  return normal(shape, seed, DType::f32);
}

Tensor indices(const Shape& shape, std::int64_t bound) {
  Generator g(2);
  Tensor result = Tensor::empty(shape, DType::i64);
  for (std::int64_t& i : result.mutable_data<std::int64_t>()) i = g.below(bound);
  return result;
}

struct Case {
  const char* name;
  std::vector<Tensor> inputs;
  std::function<Tensor(const std::vector<Tensor>&)> call;
};

// Large enough that two threads share the work.
std::vector<Case> cases() {
  const Tensor x = numbers({1200, 1001}), w = numbers({1001}, 3);
  return {
      {"sum all", {x}, [](auto& in) { return sum(in[0]); }},
      {"sum rows", {x}, [](auto& in) { return sum(in[0], {1}); }},
      {"sum columns", {x}, [](auto& in) { return sum(in[0], {0}); }},
      {"sum long columns", {numbers({100000, 3})}, [](auto& in) { return sum(in[0], {0}); }},
      {"mean outer and inner",
       {numbers({40, 50, 60})},
       [](auto& in) {
         return mean(in[0], {0, 2});
       }},
      {"max all", {x}, [](auto& in) { return max(in[0]); }},
      {"max columns", {x}, [](auto& in) { return max(in[0], {0}); }},
      {"logsumexp rows", {x}, [](auto& in) { return logsumexp(in[0], {1}); }},
      {"softmax", {x}, [](auto& in) { return softmax(in[0]); }},
      {"softmax down", {numbers({20, 70, 90})}, [](auto& in) { return softmax(in[0], 1); }},
      {"softmax causal",
       {numbers({8, 100, 130})},
       [](auto& in) { return softmax(in[0], {.causal = true, .scale = 0.1}); }},
      {"log_softmax", {x}, [](auto& in) { return log_softmax(in[0]); }},
      {"cross_entropy", {x}, [](auto& in) { return cross_entropy(in[0], indices({1200}, 1001)); }},
      {"layer_norm", {x, w, w}, [](auto& in) { return layer_norm(in[0], in[1], in[2]); }},
      {"rms_norm", {x, w}, [](auto& in) { return rms_norm(in[0], in[1]); }},
      {"embedding",
       {numbers({500, 200})},
       [](auto& in) {
         return embedding(in[0], indices({40, 50}, 500));
       }},
      {"permute",
       {numbers({60, 70, 80})},
       [](auto& in) {
         return permute(in[0], {2, 0, 1});
       }},
      {"transpose", {x}, [](auto& in) { return transpose(in[0]); }},
      {"flip", {x}, [](auto& in) { return flip(in[0], 1); }},
      {"expand",
       {w},
       [](auto& in) {
         return expand(in[0], {1200, 1001});
       }},
      {"slice", {x}, [](auto& in) { return slice(in[0], 1, 5, 990, 3); }},
      {"concat", {x, x}, [](auto& in) { return concat(in, 1); }},
      {"dropout",
       {x},
       [](auto& in) {
         Generator g(4);
         return dropout(in[0], 0.3, g);
       }},
      {"mul, broadcast", {x, w}, [](auto& in) { return in[0] * in[1]; }},
      {"matmul",
       {x, numbers({70, 1001})},
       [](auto& in) { return matmul(in[0], in[1], {.transpose_b = true}); }},
  };
}

std::vector<Tensor> value_and_gradients(const Case& c, int count) {
  set_threads(count);
  Tape tape;
  std::vector<Tensor> inputs;
  for (const Tensor& tensor : c.inputs) inputs.push_back(tape.watch(tensor));
  const Tensor value = c.call(inputs);
  const Tensor seed = numbers(value.shape(), 9);
  std::vector<Tensor> results =
      tape.gradient(std::span(&value, 1), inputs, {.seeds = std::span(&seed, 1)});
  results.push_back(value);
  set_threads(1);
  return results;
}

}  // namespace

TEST_CASE("products large enough to be cut have the same bits on one thread and two") {
  // Rows that leave one, two or many over when cut in 32s; every way of reading the operands.
  for (const std::int64_t m : {1, 33, 65, 97, 130})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        const std::int64_t k = 1024, n = 1024;
        const Tensor a = numbers(ta ? Shape{k, m} : Shape{m, k}, 1);
        const Tensor b = numbers(tb ? Shape{n, k} : Shape{k, n}, 2), bias = numbers({n}, 3);
        Tensor results[2];
        for (const int count : {1, 2}) {
          set_threads(count);
          results[count - 1] = matmul(a, b, {.transpose_a = ta, .transpose_b = tb, .add = bias});
          set_threads(1);
        }
        INFO("m " << m << ", transposed " << ta << tb);
        CHECK(same_bits(results[0], results[1]));
      }
  const Tensor a = numbers({3, 40, 700}, 1), b = numbers({3, 700, 700}, 2);
  Tensor results[2];
  for (const int count : {1, 2}) {
    set_threads(count);
    results[count - 1] = matmul(a, b);
    set_threads(1);
  }
  CHECK(same_bits(results[0], results[1]));
}

TEST_CASE("what pieces of work throw arrives once, the same on one thread and two") {
  for (const int count : {1, 2}) {
    set_threads(count);
    const std::string message = message_of([] {
      parallel_for(100, 10, 1e9, [](std::int64_t begin, std::int64_t) {
        if (begin >= 30) throw Error("piece " + std::to_string(begin));
      });
    });
    set_threads(1);
    CHECK(message == "piece 30");
  }
}

TEST_CASE("large work has the same bits on one thread and two") {
  for (const Case& c : cases()) DYNAMIC_SECTION(c.name) {
      const std::vector<Tensor> one = value_and_gradients(c, 1), two = value_and_gradients(c, 2);
      for (std::size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], two[i]));
    }
}
