#pragma once

#include <unroll/graph/tensor.h>

namespace unroll {

struct AttentionStepOptions {
  std::int64_t heads = 1;
  std::int64_t sinks = 0;  ///< of the cache's rows, those that are never written over
  /// Rotary: sines and cosines of each stream's position, [B, D] as sinusoidal_positions() has
  /// them for one head's size D. Undefined: queries and keys are not turned.
  Tensor angles = {};
  /// The same of positions that count the cache's rows alone: how the sinks see the query (Xiao et
  /// al., 2023, 3.2).
  Tensor sink_angles = {};
};

struct AttentionStepOutput {
  Tensor output;  ///< [B, E]
  Tensor cache;
};

/// One step of causal self-attention for streams side by side, with a cache of R rows: qkv [B, 3E]
/// holds queries, keys and values, position [B] i64 how many steps of each stream went before,
/// cache [B, R, 2E] keys (turned) beside values. This step's go to row `position` where that is
/// below R, else over the oldest but the sinks; the query sees all rows written so far: itself, the
/// R - sinks
/// - 1 steps before it, and the sinks. A Program with the cache carried writes it in place. It has
/// no gradient. Throws ShapeError where the shapes do not fit.
AttentionStepOutput attention_step(const Tensor& qkv, const Tensor& cache, const Tensor& position,
                                   const AttentionStepOptions& options,
                                   Where where = Where::current());

}  // namespace unroll
