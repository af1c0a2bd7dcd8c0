#include <fmt/format.h>
#include <omp.h>
#include <unroll/graph/clock.h>
#include <unroll/graph/generator.h>
#include <unroll/graph/memory.h>
#include <unroll/graph/threads.h>

#include <algorithm>
#include <cstdio>
#include <regex>

#include "cases.h"
#ifndef UNROLL_NO_ONEDNN
#include <unroll/ops/onednn.h>
#endif

namespace unroll::bench {
namespace {

struct Seconds {
  double median, best;  ///< of one run
};

/// Five rounds, each of which lasts a fifth of `seconds`; peers are timed alike.
Seconds timed(const std::function<void()>& run, double seconds) {
  run();
  run();
  std::vector<double> rounds;
  for (int round = 0; round < 5; ++round) {
    const auto start = Clock::now();
    double passed = 0;
    int runs = 0;
    do {
      run();
      ++runs;
      passed = seconds_since(start);
    } while (passed < seconds / 5);
    rounds.push_back(passed / runs);
  }
  std::sort(rounds.begin(), rounds.end());
  return {rounds[2], rounds[0]};
}

/// Steps one by one for `seconds`, in microseconds and in order of size.
std::vector<double> timed_steps(const std::function<void()>& run, double seconds) {
  for (int i = 0; i < 200; ++i) run();
  std::vector<double> steps;
  steps.reserve(1 << 20);
  const auto start = Clock::now();
  while (seconds_since(start) < seconds && steps.size() < (1 << 20)) {
    const auto begin = Clock::now();
    run();
    steps.push_back(seconds_since(begin) * 1e6);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

#ifndef UNROLL_NO_ONEDNN
/// FLOPs a second of a 768 x 512 x 128 product by oneDNN with weights in the layout it likes best.
double packed_product_rate(int threads, DType precision) {
  using dnnl::memory;
  constexpr std::int64_t m = 768, n = 512, k = 128;
  const auto f32 = memory::data_type::f32;
  const auto type = precision == DType::bf16 ? memory::data_type::bf16 : f32;
  dnnl::engine& engine = onednn::engine();
  dnnl::stream stream(engine);
  const memory::desc a({m, k}, type, memory::format_tag::ab),
      c({m, n}, f32, memory::format_tag::ab), plain({k, n}, type, memory::format_tag::ab),
      any({k, n}, type, memory::format_tag::any);
  omp_set_num_threads(threads);
  const auto description = onednn::matmul(a, any, nullptr, c, {});
  const dnnl::matmul primitive(description);
  Generator g(1);  // half of these bytes, where they stand for bf16: which numbers does not matter
  Tensor x = g.normal({m, k}, 0, 1), w = g.normal({k, n}, 0, 1), y = Tensor::empty({m, n});
  memory from(a, engine, x.bytes()), to(c, engine, y.bytes()), unpacked(plain, engine, w.bytes()),
      packed(description.weights_desc(), engine);
  dnnl::reorder(unpacked, packed).execute(stream, unpacked, packed);
  const auto run = [&] {
    primitive.execute(stream,
                      {{DNNL_ARG_SRC, from}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, to}});
    stream.wait();
  };
  return 2.0 * m * n * k / timed(run, 0.25).best;
}
#else
double packed_product_rate(int, DType) { return 0; }
#endif

}  // namespace

int run_cases(const std::string& filter, int threads, double seconds) {
  const std::regex wanted(filter);
  set_threads(threads);
  int found = 0;
  for (const Case& one : cases()) {
    if (!std::regex_search(one.name, wanted)) continue;
    ++found;
    const auto run = one.make();
    run();
    if (one.state_bytes) {
      const std::vector<double> steps = timed_steps(run, seconds);
      const std::size_t n = steps.size();
      fmt::print(R"({{"case": "{}", "threads": {}, "us": {:.4g}, "us_best": {:.4g}, )"
                 R"("us_p99": {:.4g}, "us_worst": {:.4g}, "state_bytes": {}}})"
                 "\n",
                 one.name, threads, steps[n / 2], steps[0], steps[n - 1 - n / 100], steps[n - 1],
                 one.state_bytes());
      std::fflush(stdout);
      continue;
    }
    const auto product_rate = [&] {
      return one.flops > 0 ? packed_product_rate(threads, one.precision) : 0;
    };
    const double before = product_rate();
    reset_peak_memory();
    const Seconds time = timed(run, seconds);
    const std::int64_t peak = memory_stats().peak;
    // Once more: on a machine whose clock varies, the better rate is nearer to the truth.
    const double rate = std::max(before, product_rate());
    const char* unit = one.unit == Unit::ms ? "ms" : one.unit == Unit::us ? "us" : "ns";
    // Nanoseconds an op: a run is a chain of 1000.
    const double scale = one.unit == Unit::ms ? 1e3 : 1e6;
    fmt::print(R"({{"case": "{}", "threads": {}, "{}": {:.5g}, "{}_best": {:.5g})", one.name,
               threads, unit, time.median * scale, unit, time.best * scale);
    if (rate > 0) fmt::print(R"(, "limit_ms": {:.5g})", one.flops / rate * 1e3);
    fmt::print(R"(, "peak_bytes": {}}})"
               "\n",
               peak);
    std::fflush(stdout);
  }
  if (found > 0) return 0;
  fmt::print(stderr, "unroll_bench: no case matches '{}'\n", filter);
  return 1;
}

}  // namespace unroll::bench
