#pragma once

#include <unroll/ops/scan.h>

#include <cstdint>
#include <functional>
#include <string_view>

namespace unroll {

/// What bounds the memory of attention in a stream. Models whose state has one size take none.
struct StreamOptions {
  /// Keys that a step sees, its own among them; 0: those of the model's own window or context.
  std::int64_t window = 0;
  /// The stream's first keys, kept beside the window for good: attention sinks (Xiao et al.,
  /// "Efficient streaming language models with attention sinks", 2023).
  std::int64_t sinks = 0;
};

/// One step of a causal model, as a Stream runs it: a function of one step's inputs and a state of
/// constant size, traced on shapes alone.
struct StepForm {
  /// x [B, ...], how many steps of each stream went before [B] i64, and the state -> outputs
  /// [B, ...] and the next state, of the same shapes.
  std::function<Output(const Tensor& x, const Tensor& position, const State& state)> step;
  /// At a stream's beginning: zeros, B leading in each.
  std::function<State(std::int64_t batch)> initial_state;
  std::int64_t longest = 0;  ///< steps that a stream may have; 0: any number
};

/// Refuses, in the name of a layer, to stream one that draws random numbers: it is in training.
[[noreturn]] inline void fail_stream_draws(std::string_view name, const Where& where = Where()) {
  fail(name, "drops values at random, and a stream draws no random numbers", where,
       "Put the model into eval() before");
}

}  // namespace unroll
