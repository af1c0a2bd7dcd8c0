#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace unroll {

/// A source and its target, without <s> and </s>.
struct SequencePair {
  std::vector<std::int64_t> source;
  std::vector<std::int64_t> target;
};

/// Pairs side by side, padded; time leads.
struct PairBatch {
  Tensor source;   ///< [S, B] i64
  Tensor lengths;  ///< [B] i64 of the sources
  Tensor inputs;   ///< [T, B] i64: <s>, then the target
  Tensor targets;  ///< [T, B] i64: the target, then </s>; -100 behind it
};

/// Sources [S, B] and their lengths [B]. Throws Error for one without symbols, and for none at all.
PairBatch source_batch(std::span<const std::vector<std::int64_t>> sources);
PairBatch pair_batch(std::span<const SequencePair> pairs);

/// Draws batches of pairs of similar length: of some batches' worth of pairs drawn evenly, sorted
/// by length, a run. Every pair is equally likely, and the generator's position is all that a
/// resumed run needs. `pairs` must outlive this.
class RandomPairs {
 public:
  /// Throws DataError where there are no pairs or one has an empty source.
  RandomPairs(std::span<const SequencePair> pairs, std::int64_t batch);
  PairBatch next(Generator& generator) const;

 private:
  std::span<const SequencePair> pairs_;
  std::int64_t batch_;
};

/// Indices of `pairs`, sorted by target, then source length, in runs of up to `batch`: for
/// evaluation, which wants all, and little padding.
std::vector<std::vector<std::size_t>> length_batches(std::span<const SequencePair> pairs,
                                                     std::int64_t batch);

}  // namespace unroll
