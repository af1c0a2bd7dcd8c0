#include <fmt/format.h>
#include <omp.h>
#include <unroll/graph/clock.h>
#include <unroll/graph/generator.h>
#include <unroll/graph/memory.h>
#include <unroll/graph/threads.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
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

/// Seconds that one of the runs takes which fill `seconds`.
double each(const std::function<void()>& run, double seconds) {
  const auto start = Clock::now();
  double passed = 0;
  int runs = 0;
  do {
    run();
    ++runs;
    passed = seconds_since(start);
  } while (passed < seconds);
  return passed / runs;
}

Seconds sorted(std::array<double, 5> rounds) {
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
/// What limits are told by: a 768 x 512 x 128 product by oneDNN with weights in the layout that it
/// likes best.
class PackedProduct {
 public:
  static constexpr std::int64_t m = 768, n = 512, k = 128;
  static constexpr double flops = 2.0 * m * n * k;

  PackedProduct(int threads, DType precision)
      : type_(precision == DType::bf16 ? dnnl::memory::data_type::bf16
                                       : dnnl::memory::data_type::f32) {
    omp_set_num_threads(threads);
    const auto description = onednn::matmul(a_, any_, nullptr, c_, {});
    primitive_ = dnnl::matmul(description);
    packed_ = dnnl::memory(description.weights_desc(), engine_);
    dnnl::memory plain({{k, n}, type_, dnnl::memory::format_tag::ab}, engine_, w_.bytes());
    dnnl::reorder(plain, packed_).execute(stream_, plain, packed_);
  }
  void operator()() {
    primitive_.execute(stream_,
                       {{DNNL_ARG_SRC, from_}, {DNNL_ARG_WEIGHTS, packed_}, {DNNL_ARG_DST, to_}});
    stream_.wait();
  }

 private:
  dnnl::engine& engine_ = onednn::engine();
  dnnl::stream stream_{engine_};
  dnnl::memory::data_type type_;
  dnnl::memory::desc a_{{m, k}, type_, dnnl::memory::format_tag::ab},
      any_{{k, n}, type_, dnnl::memory::format_tag::any},
      c_{{m, n}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab};
  // Half of these bytes, where they stand for bf16: which numbers does not matter.
  Tensor x_ = Generator(1).normal({m, k}, 0, 1), w_ = Generator(2).normal({k, n}, 0, 1),
         y_ = Tensor::empty({m, n});
  dnnl::memory from_{a_, engine_, x_.bytes()}, to_{c_, engine_, y_.bytes()}, packed_;
  dnnl::matmul primitive_;
};
#endif

struct Timed {
  Seconds run, product;
};

/// Five rounds, each of which lasts a fifth of `seconds`; peers are timed alike. Where asked for, a
/// short round of the product comes before each: on a machine whose clock varies, a limit is that
/// of the same moments.
Timed timed(const std::function<void()>& run, double seconds,
            const std::function<void()>& product) {
  std::array<double, 5> runs{}, products{};
  for (int round = 0; round < 5; ++round) {
    if (product) products[round] = each(product, 0.02);
    runs[round] = each(run, seconds / 5);
  }
  return {sorted(runs), sorted(products)};
}

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
    reset_peak_memory();
    run();
    run();
    const std::int64_t peak = memory_stats().peak;
    std::function<void()> product;
#ifndef UNROLL_NO_ONEDNN
    if (one.flops > 0)
      product = [packed = std::make_shared<PackedProduct>(threads, one.precision)] { (*packed)(); };
#endif
    const Timed time = timed(run, seconds, product);
    const char* unit = one.unit == Unit::ms ? "ms" : one.unit == Unit::us ? "us" : "ns";
    // Nanoseconds an op: a run is a chain of 1000.
    const double scale = one.unit == Unit::ms ? 1e3 : 1e6;
    fmt::print(R"({{"case": "{}", "threads": {}, "{}": {:.5g}, "{}_best": {:.5g})", one.name,
               threads, unit, time.run.median * scale, unit, time.run.best * scale);
#ifndef UNROLL_NO_ONEDNN
    if (product)
      fmt::print(R"(, "limit_ms": {:.5g})",
                 one.flops / PackedProduct::flops * time.product.median * 1e3);
#endif
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
