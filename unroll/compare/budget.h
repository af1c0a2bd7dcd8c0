#pragma once

#include <unroll/compare/compare.h>
#include <unroll/compare/inside.h>

namespace unroll {

/// What a comparison spends: full or quick, on data or on a task.
struct Budget {
  std::int64_t batch = 0, context = 0, steps = 0, evaluations = 0;
  int evaluation_batches = 0;
  // The probes, of comparisons on data alone.
  std::int64_t flow_steps = 0;
  std::vector<std::int64_t> scaling_lengths = {}, adding_lengths = {}, stream_positions = {};
  double scaling_seconds = 0;
  std::int64_t adding_steps = 0, adding_parameters = 0;
  InspectOptions inspect = {};
};

Budget budget_of(const CompareOptions& options);

/// The k1 of a comparison of k2s: the smallest of them.
std::int64_t shortest_reach(const CompareOptions& options);

}  // namespace unroll
