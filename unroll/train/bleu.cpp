#include <fmt/format.h>
#include <unroll/graph/error.h>
#include <unroll/train/bleu.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace unroll {
namespace {

using Words = std::vector<std::string>;
using NGram = std::span<const std::string>;

struct Before {
  bool operator()(const NGram& a, const NGram& b) const {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
  }
};

std::map<NGram, std::int64_t, Before> ngrams(const Words& words, std::size_t n) {
  std::map<NGram, std::int64_t, Before> counts;
  for (std::size_t i = 0; i + n <= words.size(); ++i) ++counts[NGram(words).subspan(i, n)];
  return counts;
}

}  // namespace

Bleu corpus_bleu(std::span<const Words> hypotheses, std::span<const Words> references) {
  if (hypotheses.size() != references.size())
    fail("corpus_bleu",
         fmt::format("{} hypotheses for {} references", hypotheses.size(), references.size()));
  Bleu bleu;
  std::array<std::int64_t, 4> right{}, all{};
  for (std::size_t s = 0; s < hypotheses.size(); ++s) {
    bleu.hypotheses += static_cast<std::int64_t>(hypotheses[s].size());
    bleu.references += static_cast<std::int64_t>(references[s].size());
    for (std::size_t n = 1; n <= 4; ++n) {
      const auto known = ngrams(references[s], n);
      for (const auto& [ngram, count] : ngrams(hypotheses[s], n)) {
        all[n - 1] += count;
        const auto found = known.find(ngram);
        if (found != known.end()) right[n - 1] += std::min(count, found->second);
      }
    }
  }
  if (bleu.hypotheses == 0) return bleu;
  bleu.brevity_penalty = std::min(1.0, std::exp(1 - static_cast<double>(bleu.references) /
                                                        static_cast<double>(bleu.hypotheses)));
  double logs = 0;
  for (std::size_t n = 0; n < 4; ++n) {
    if (all[n] > 0)
      bleu.precisions[n] = static_cast<double>(right[n]) / static_cast<double>(all[n]);
    logs += std::log(bleu.precisions[n]) / 4;  // -infinity, and 0 in the end, where one is 0
  }
  bleu.score = 100 * bleu.brevity_penalty * std::exp(logs);
  return bleu;
}

}  // namespace unroll
