#pragma once

#include <unroll/graph/tape.h>

#include <functional>
#include <vector>

namespace unroll {

/// What a recurrent layer carries from step to step: {h} for RNN and GRU, {h, c} for LSTM.
using State = std::vector<Tensor>;

/// A layer's or cell's result: what it gives and what it carries on.
struct Output {
  Tensor output;
  State state;
};

/// One step: x [B, ...] and the state before give the output and the state after, whose shapes are
/// those of the state before.
using Cell = std::function<Output(const Tensor& x, const State& state)>;

struct ScanOptions {
  /// Per row of the batch, how many steps count, [B] i64; undefined: all. Behind its end a row's
  /// state stays and its output is 0, so that a padded batch equals each sequence run alone.
  Tensor lengths = {};
  bool reverse = false;  ///< from the last step to the first
  /// The plain loop on the tape: the twin that scan is tested against. It takes any cell, also one
  /// that draws random numbers, and its gradients can be differentiated again.
  bool unrolled = false;
};

/// Runs a cell along the leading axis of xs [T, B, ...]; returns outputs [T, B, ...] and the last
/// state. The cell is traced once. What does not depend on the state is taken out of the loop
/// forward, what the state's gradient does not depend on is taken out of it backward: the input
/// product and every weight gradient become one product over all steps. Throws Error where the
/// cell reads data while it is traced, or changes the shape of its state.
Output scan(const Cell& cell, const Tensor& xs, const State& state, const ScanOptions& options = {},
            Where where = Where::current());

}  // namespace unroll
