// unroll_bench: the micro-benchmarks, with Google Benchmark's options.
// unroll_bench --cases [--filter REGEX] [--threads N] [--seconds S]: the cases that peers run too.
// unroll_bench --list [--filter REGEX]: their names.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <unroll/graph/threads.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <regex>

#include "cases.h"

namespace {

// Whether the regular expression can be read; CLI11 prints what is returned.
std::string check_regex(const std::string& text) {
  try {
    const std::regex compiled(text);
  } catch (const std::regex_error& error) {
    return fmt::format("'{}' is no regular expression: {}", text, error.what());
  }
  return {};
}

int run_cases(int argc, char** argv) {
  using namespace unroll;
  CLI::App app("The cases that peers run too");
  bool cases = false, list = false;
  std::string filter = ".";
  int threads = 1;
  double seconds = 3;
  app.add_flag("--cases", cases, "Run them, one JSON line each");
  app.add_flag("--list", list, "Name them");
  app.add_option("--filter", filter, "Regular expression of names")->check(check_regex);
  app.add_option("--threads", threads)->check(CLI::Range(1, 1024));
  app.add_option("--seconds", seconds, "For each case")->check(CLI::Range(1e-3, 1e6));
  CLI11_PARSE(app, argc, argv);
  if (!list) return bench::run_cases(filter, threads, seconds);
  const std::regex wanted(filter);
  for (const bench::Case& one : bench::cases())
    if (std::regex_search(one.name, wanted)) fmt::print("{}\n", one.name);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && (std::strcmp(argv[1], "--list") == 0 || std::strcmp(argv[1], "--cases") == 0))
    return run_cases(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  unroll::bench::add_micro_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
