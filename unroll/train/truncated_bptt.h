#pragma once

#include <unroll/train/sequence_model.h>

namespace unroll {

/// What reaches from one chunk of a stream into the next.
struct Carried {
  State state = {};  ///< that enters `past`; empty: the stream's beginning
  Tensor past = {};  ///< inputs [up to k2, B, ...] that are gone through again; undefined: none
};

/// Truncated back-propagation through time, BPTT(k1, k2): the outputs [k1, B, O] of a stream's next
/// chunk x [k1, B, ...], recorded so that backward() on the current tape goes back through the last
/// k2 steps, those of earlier chunks among them; 0: through the chunk, as k2 = k1. Steps further
/// back are constants. A step of an optimizer behind each chunk makes it the algorithm of Williams
/// and Peng ("An efficient gradient-based algorithm for on-line training of recurrent network
/// trajectories", 1990), save that the steps before the chunk are computed again with the present
/// parameters, so that the gradient is that of one function. Memory is that of k1 + k2 steps,
/// however long the stream; where k2 reaches the stream's beginning, nothing is truncated.
///
/// `carried` becomes what the next chunk needs; behind one of k2 steps or more it is the state
/// alone, and the next chunk's gradients end where it begins. Throws Error for a model whose state
/// grows, unless k2 is 0.
Tensor run_stream(SequenceModel& model, const Tensor& x, std::int64_t k2, Carried& carried);

}  // namespace unroll
