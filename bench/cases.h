#pragma once

#include <unroll/graph/shape.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace unroll::bench {

/// What one run of a case stands for in its line.
enum class Unit : std::uint8_t { ms, us, ns };

/// A case that a peer runs under the same name and in the same way.
struct Case {
  std::string name;
  Unit unit = Unit::ms;
  /// Of the products that cannot be avoided: forward, weight gradients, gradients of states and of
  /// inputs that depend on parameters. The lower half of causal attention. 0: no limit is given.
  double flops = 0;
  DType precision = DType::f32;  ///< of the products, and of those that the limit stands for
  /// Builds models and inputs, and returns what is timed.
  std::function<std::function<void()>()> make;
  /// Of streams, whose steps are timed one by one.
  std::function<std::int64_t()> state_bytes = {};
};

std::vector<Case> cases();

/// Runs the cases whose names `filter` finds, `seconds` each, and prints a JSON object a line.
int run_cases(const std::string& filter, int threads, double seconds);

/// Those that are not registered by their definition: layers, streaming, every op.
void add_micro_benchmarks();

}  // namespace unroll::bench
