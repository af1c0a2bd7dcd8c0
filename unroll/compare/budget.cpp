#include <unroll/compare/budget.h>

#include <algorithm>

namespace unroll {
namespace {

// As many tokens for a run in small chunks as for one in windows of `context`.
std::int64_t steps_of(const CompareOptions& o, std::int64_t usual, std::int64_t context) {
  if (o.steps != 0) return o.steps;
  if (o.k2.empty()) return usual;
  return std::max<std::int64_t>(1, usual * context / shortest_reach(o));
}

}  // namespace

std::int64_t shortest_reach(const CompareOptions& o) {
  return *std::min_element(o.k2.begin(), o.k2.end());
}

Budget budget_of(const CompareOptions& o) {
  if (!o.task.empty())
    return {.batch = o.quick ? 32 : 64,
            .steps = steps_of(o, o.quick ? 200 : 2000, 1),
            .evaluations = o.quick ? 5 : 20,
            .evaluation_batches = 4};
  if (o.quick)
    return {.batch = 8,
            .context = 48,
            .steps = steps_of(o, 60, 48),
            .evaluations = 6,
            .evaluation_batches = 4,
            .flow_steps = 101,
            .scaling_lengths = {32, 64, 128, 256},
            .adding_lengths = {10, 30},
            .stream_positions = {1, 64, 256, 1024},
            .scaling_seconds = 0.05,
            .adding_steps = 60,
            .adding_parameters = 5000,
            .inspect = {.steps = 24,
                        .batch = 4,
                        .context = 32,
                        .windows = 128,
                        .units = 16,
                        .jacobian = {.count = 4, .exact = 0, .iterations = 20}}};
  return {.batch = 16,
          .context = 64,
          .steps = steps_of(o, 600, 64),
          .evaluations = 20,
          .evaluation_batches = 16,
          .flow_steps = 101,
          .scaling_lengths = {32, 64, 128, 256, 512, 1024},
          .adding_lengths = {20, 50, 100},
          .stream_positions = {1, 64, 256, 1024},
          .scaling_seconds = 0.4,
          .adding_steps = 600,
          .adding_parameters = 10'000,
          .inspect = {.steps = 40,
                      .batch = 8,
                      .context = 64,
                      .windows = 256,
                      .units = 24,
                      .jacobian = {.count = 8, .exact = 300}}};
}

}  // namespace unroll
