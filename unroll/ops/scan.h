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
  /// state stays and its output is 0, so that a padded batch equals each sequence run alone. What
  /// stands in the padding must be finite: weight gradients add 0 times it.
  Tensor lengths = {};
  bool reverse = false;  ///< from the last step to the first
  /// Every so many steps the state is kept, and what lies between is computed again on the way
  /// back: memory grows as T / k + k beside that of inputs and outputs, for a third more time. 0:
  /// nothing is computed again.
  std::int64_t checkpoint_every = 0;
  /// The plain loop on the tape: the twin that scan is tested against. It takes any cell, also one
  /// that draws random numbers, and its gradients can be differentiated again where those of its
  /// ops can (not so the gates of LSTM and GRU, one lambda of many arguments each).
  bool unrolled = false;
};

/// Runs a cell along the leading axis of xs [T, B, ...]; returns outputs [T, B, ...] and the last
/// state. The cell is traced once. What does not depend on the state is taken out of the loop
/// forward, what the state's gradient does not depend on is taken out of it backward: the input
/// product and every weight gradient become one product over all steps. Throws Error where the
/// cell is empty, reads data while it is traced, or changes the shape of its state, and where a
/// tensor of the initial state is undefined.
Output scan(const Cell& cell, const Tensor& xs, const State& state, const ScanOptions& options = {},
            Where where = Where::current());

/// One of several scans over the same steps.
struct ScanMember {
  Cell cell;
  State state;
  bool reverse = false;  ///< where options.reverse is set too, forward
};

/// Scans of the same xs, such as the two directions of a layer; with several threads() side by
/// side, where that wins. Results and bits are those of scan() for each.
std::vector<Output> scan_parallel(std::span<const ScanMember> members, const Tensor& xs,
                                  const ScanOptions& options = {}, Where where = Where::current());

/// Scans in one direction, the first of xs, each further one of the outputs of the one before, such
/// as stacked layers; with several threads() on a wavefront, each some steps behind the one before,
/// where that wins. The results are those of scan() for each; only the last has its output.
std::vector<Output> scan_stack(std::span<const ScanMember> members, const Tensor& xs,
                               const ScanOptions& options = {}, Where where = Where::current());

}  // namespace unroll
