// unroll_bench: the micro-benchmarks, with Google Benchmark's options.
// unroll_bench --cases [--filter REGEX] [--threads N] [--seconds S]: the cases that peers run too.
// unroll_bench --list: their names.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <unroll/graph/threads.h>

#include <cstdlib>
#include <cstring>

#include "cases.h"

int main(int argc, char** argv) {
  using namespace unroll;
  if (argc > 1 && std::strcmp(argv[1], "--list") == 0) {
    for (const bench::Case& one : bench::cases()) fmt::print("{}\n", one.name);
    return 0;
  }
  if (argc > 1 && std::strcmp(argv[1], "--cases") == 0) {
    std::string filter = ".";
    int threads = 1;
    double seconds = 3;
    for (int i = 2; i + 1 < argc; i += 2) {
      const std::string option = argv[i];
      if (option == "--filter") filter = argv[i + 1];
      if (option == "--threads") threads = std::max(1, std::atoi(argv[i + 1]));
      if (option == "--seconds") seconds = std::atof(argv[i + 1]);
    }
    return bench::run_cases(filter, threads, seconds);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::add_micro_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
