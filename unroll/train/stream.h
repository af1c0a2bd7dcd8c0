#pragma once

#include <unroll/layers/recurrent.h>
#include <unroll/train/sequence_model.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace unroll {

/// Where a stream stands: a value, to be kept, copied, and given to any Stream of the same model.
struct StreamState {
  std::int64_t position = 0;  ///< steps that it has gone
  State state = {};           ///< without the axis of streams

  /// For save_safetensors(), under the names "position", "state.0", "state.1", ...
  StateDict to_dict() const;
  /// Throws Error for anything but what to_dict() gives.
  static StreamState from_dict(const StateDict& dict);
};

/// Runs a causal model one step after the other, for one stream or many, in memory of one size:
///
///     Stream stream(model);
///     for (...) Tensor y = stream.step(x);
///
/// A step is a replay (Program) with the weights laid out once and the states in place; behind the
/// first of a batch's size it allocates nothing. It gives what the model gives on the whole
/// sequence, up to rounding. Parameters that change are read anew. The model must outlive it, be in
/// eval() where it drops anything, and is not trained by it: no gradient flows.
///
/// Streams have numbers, chosen by the caller; one joins, at its beginning, where step() first
/// names it. As long as consecutive steps name the same streams, their states stay where they are;
/// else rows are copied. Batches are filled up to powers of two, so that streams which come and go
/// need few replays.
class Stream {
 public:
  /// Throws Error where the model's memory would grow: attention without a window or context.
  explicit Stream(SequenceModel& model, const StreamOptions& options = {});
  /// A bare layer in one direction: x [B, input] -> [B, size].
  explicit Stream(const RecurrentLayer& layer);
  /// Any cell, a user's as well.
  explicit Stream(const RecurrentCell& cell, DType dtype = DType::f32);
  explicit Stream(StepForm form);
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  ~Stream();

  /// The next step of the streams 0 .. B - 1: tokens [B] or features [B, F] -> outputs [B, O].
  /// The result is written over by a later step unless somebody holds it. Throws ShapeError for an
  /// input of another shape or dtype than the model's, Error where a stream would pass the model's
  /// context, and whatever an op throws; then no stream has moved or joined (but for a state that
  /// an earlier op has written in place where a later one refuses data: docs/design.md).
  Tensor step(const Tensor& x);
  /// The same for the streams named: row i of x is that of ids[i].
  Tensor step(std::span<const std::int64_t> ids, const Tensor& x);
  Tensor step(std::initializer_list<std::int64_t> ids, const Tensor& x) {
    return step(std::span(ids.begin(), ids.size()), x);
  }

  /// A copy of where a stream stands. One that has not joined stands at its beginning.
  StreamState state(std::int64_t id = 0) const;
  /// The stream goes on from there; it joins where it had not. Throws Error
  /// for one whose tensors have other shapes.
  void restore(const StreamState& state, std::int64_t id = 0);
  /// Back to the beginning.
  void reset(std::int64_t id = 0);
  /// Forgets a stream; its memory serves the next that joins.
  void leave(std::int64_t id);

  std::int64_t position(std::int64_t id = 0) const;
  /// The streams that have joined, in order.
  std::vector<std::int64_t> ids() const;
  /// Bytes of one stream's state.
  std::int64_t state_bytes() const;

 private:
  struct Impl;
  Impl& impl() const;  // Throws Error where it was moved from.

  std::unique_ptr<Impl> impl_;
};

}  // namespace unroll
