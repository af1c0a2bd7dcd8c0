// What the table's small samples of the recurrences do not show: memory, threads, long sequences.

#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/causal_conv.h>
#include <unroll/ops/linear_recurrence.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/selective_scan.h>
#include <unroll/ops/wkv.h>

#include <cmath>
#include <functional>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

using Call = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

// Outputs, and the gradients of a weighted sum of them.
std::vector<Tensor> differentiate(const Call& f, const std::vector<Tensor>& in) {
  Tape tape;
  std::vector<Tensor> watched;
  for (const Tensor& one : in) watched.push_back(tape.watch(one));
  std::vector<Tensor> all = f(watched);
  Tensor loss;
  std::uint64_t seed = 60;
  for (const Tensor& value : all) {
    const Tensor part = sum(value * normal(value.shape(), seed++, value.dtype()));
    loss = loss.defined() ? loss + part : part;
  }
  for (Tensor& one : tape.gradient(loss, watched)) all.push_back(one);
  return all;
}

std::vector<Tensor> selective_inputs(std::int64_t steps, std::int64_t batch, std::int64_t channels,
                                     std::int64_t states) {
  Generator g(5);
  const Shape x{steps, batch, channels}, b{steps, batch, states};
  return {g.normal(x, 0, 1), g.uniform(x, 0.001, 0.1), g.uniform({channels, states}, -8, -0.5),
          g.normal(b, 0, 1), g.normal(b, 0, 1),        g.normal({batch, states, channels}, 0, 1)};
}

std::vector<Tensor> wkv_inputs(std::int64_t steps, std::int64_t batch, std::int64_t heads,
                               std::int64_t size) {
  Generator g(6);
  const Shape x{steps, batch, heads * size};
  return {g.normal(x, 0, 1),
          g.normal(x, 0, 1),
          g.normal(x, 0, 1),
          g.uniform(x, 0.5, 0.999),
          g.normal({heads, size}, 0, 1),
          g.normal({batch, heads, size, size}, 0, 1)};
}

const Call run_selective = [](std::span<const Tensor> in) -> std::vector<Tensor> {
  const auto [y, last] = selective_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
  return {y, last};
};
const Call run_wkv = [](std::span<const Tensor> in) -> std::vector<Tensor> {
  const auto [y, last] = wkv6(in[0], in[1], in[2], in[3], in[4], in[5]);
  return {y, last};
};

// The most live at once while f is differentiated, its inputs not counted.
std::int64_t peak(const Call& f, const std::vector<Tensor>& in) {
  const std::int64_t before = memory_stats().live;
  reset_peak_memory();
  differentiate(f, in);
  return memory_stats().peak - before;
}

}  // namespace

TEST_CASE("recurrences: one thread and two give the same bits where the work is shared out") {
  Generator g(7);
  const Shape x{300, 4, 700};
  const std::vector<std::pair<Call, std::vector<Tensor>>> cases = {
      {run_selective, selective_inputs(100, 3, 300, 16)},
      {run_wkv, wkv_inputs(100, 3, 4, 32)},
      {[](std::span<const Tensor> in) -> std::vector<Tensor> {
         return {linear_recurrence(in[0], in[1], in[2])};
       },
       {g.uniform(x, 0.1, 1), g.normal(x, 0, 1), g.normal({4, 700}, 0, 1)}},
      {[](std::span<const Tensor> in) -> std::vector<Tensor> {
         return {causal_conv1d(in[0], in[1], in[2], in[3])};
       },
       {g.normal(x, 0, 1), g.normal({700, 1, 4}, 0, 1), g.normal({700}, 0, 1),
        g.normal({4, 3, 700}, 0, 1)}}};
  for (const auto& [f, in] : cases) {
    const std::vector<Tensor> one = differentiate(f, in);
    set_threads(2);
    const std::vector<Tensor> two = differentiate(f, in);
    set_threads(1);
    REQUIRE(one.size() == two.size());
    for (std::size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], two[i]));
  }
}

TEST_CASE("recurrences: memory does not grow with the size of the state times the length") {
  // What 256 more steps cost, against the states of 256 steps.
  const auto growth = [](const auto& at) { return static_cast<double>(at(512) - at(256)) / 256; };
  constexpr double batch = 2, channels = 128, states = 64, bytes = 4;
  const double selective = growth(
      [](std::int64_t steps) { return peak(run_selective, selective_inputs(steps, 2, 128, 64)); });
  CHECK(selective < 0.3 * batch * channels * states * bytes);
  const double wkv =
      growth([](std::int64_t steps) { return peak(run_wkv, wkv_inputs(steps, 2, 2, 64)); });
  CHECK(wkv < 0.3 * batch * channels * 64 * bytes);
  // The measure does see states that are kept.
  const double kept = growth([](std::int64_t steps) {
    return peak(
        [](std::span<const Tensor> in) -> std::vector<Tensor> {
          return {linear_recurrence(in[0], in[1], in[2])};
        },
        {Tensor::full({steps, 2, 128, 64}, 0.5), Tensor::zeros({steps, 2, 128, 64}),
         Tensor::zeros({2, 128, 64})});
  });
  CHECK(kept > batch * channels * states * bytes);
}

TEST_CASE("recurrences: f32 stays near f64 over a thousand steps") {
  const auto check = [](const Call& f, const std::vector<Tensor>& in) {
    std::vector<Tensor> wide;
    for (const Tensor& one : in) wide.push_back(one.to(DType::f64));
    const std::vector<Tensor> narrow = differentiate(f, in), exact = differentiate(f, wide);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      double scale = 1;
      for (double x : exact[i].data<double>()) scale = std::max(scale, std::abs(x));
      CAPTURE(i, scale);
      CHECK(difference(narrow[i], exact[i]) < 5e-6 * scale);
    }
  };
  check(run_selective, selective_inputs(1000, 2, 20, 16));
  check(run_wkv, wkv_inputs(1000, 2, 1, 16));
}

TEST_CASE("recurrences of one step keep no state") {
  const NoGrad constant;
  const std::vector<Tensor> in = selective_inputs(1, 1, 128, 16);
  const std::vector<Tensor> warm = run_selective(in);
  const std::int64_t before = memory_stats().allocations;
  const std::vector<Tensor> out = run_selective(in);
  // y, the last state, a laid out, and an empty list of kept ones.
  CHECK(memory_stats().allocations - before <= 4);
  CHECK(same_bits(out[0], warm[0]));
}
