#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace unroll {

struct Bleu {
  double score = 0;                             ///< 0 to 100
  std::array<double, 4> precisions{};           ///< of n-grams, n = 1 to 4; 0 where there are none
  double brevity_penalty = 0;                   ///< exp(1 - references / hypotheses), at most 1
  std::int64_t hypotheses = 0, references = 0;  ///< tokens
};

/// Corpus BLEU with one reference a sentence, up to 4-grams, without smoothing (Papineni, Roukos,
/// Ward, Zhu, "BLEU: a method for automatic evaluation of machine translation", 2002). Counts are
/// clipped a sentence and summed over the corpus. Throws Error where there are not as many
/// hypotheses as references.
Bleu corpus_bleu(std::span<const std::vector<std::string>> hypotheses,
                 std::span<const std::vector<std::string>> references);

}  // namespace unroll
