#pragma once

#include <unroll/train/seq2seq.h>

#include <cstdint>
#include <vector>

namespace unroll {

struct SearchOptions {
  std::int64_t beam = 1;         ///< hypotheses a sequence that are kept; 1: greedy
  std::int64_t max_length = 64;  ///< symbols, </s> included
  /// alpha of the length penalty ((5 + length) / 6)^alpha, by which log probabilities are divided
  /// (Wu et al., "Google's neural machine translation system", 2016, equation 14); 0: none.
  double length_penalty = 0;
  std::int64_t end = 2;  ///< the symbol that ends a sequence (end_token)
};

struct Hypothesis {
  std::vector<std::int64_t> tokens;  ///< without the end
  double log_probability = 0;        ///< of all its symbols, the end included
  double score = 0;                  ///< divided by the length penalty
  bool finished = false;             ///< it has its end; otherwise max_length was reached
};

/// The best continuations of each sequence, best first, that a beam search finds: at every step the
/// `beam` most likely hypotheses go on; one that ends among them is put aside, and the search of
/// a sequence stops where no open one could still pass the `beam`-th of these. Where the beam is at
/// least as wide as there are prefixes, that is every hypothesis. With a beam of 1 it stops at the
/// first end. Those that are not finished come behind those that are.
///
/// `at` may be any state of an earlier decoding, `last` [B] i64 the symbols read next: a search may
/// branch from anywhere. No gradients; the model is run in the mode it is in. Throws Error for
/// options that make no sense, and for scores that are NaN.
std::vector<std::vector<Hypothesis>> beam_search(Seq2Seq& model, Decoding at, const Tensor& last,
                                                 const SearchOptions& options = {});

/// From the source on: [S, B] i64 and lengths as encode() takes them, in evaluation mode.
std::vector<std::vector<Hypothesis>> translate(Seq2Seq& model, const Tensor& source,
                                               const Tensor& lengths,
                                               const SearchOptions& options = {});

}  // namespace unroll
