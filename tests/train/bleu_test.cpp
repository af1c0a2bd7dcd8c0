// BLEU against values that are worked out by hand.

#include <unroll/io/tokens.h>
#include <unroll/train/bleu.h>

#include <cmath>

#include "../catch.h"

using namespace unroll;

namespace {

Bleu of(const std::vector<std::string>& hypotheses, const std::vector<std::string>& references) {
  const auto split = [](const std::vector<std::string>& lines) {
    std::vector<std::vector<std::string>> all;
    for (const std::string& line : lines) all.push_back(tokenize(line, Tokenization::words));
    return all;
  };
  return corpus_bleu(split(hypotheses), split(references));
}

}  // namespace

TEST_CASE("BLEU of what is worked out by hand") {
  CHECK(of({"the cat sat on the mat"}, {"the cat sat on the mat"}).score == Approx(100));

  // "the" occurs twice in the reference: 2 of 7 count (Papineni et al., 2.1).
  const Bleu clipped = of({"the the the the the the the"}, {"the cat is on the mat"});
  CHECK(clipped.precisions[0] == Approx(2.0 / 7));
  CHECK(clipped.score == 0);
  CHECK(clipped.brevity_penalty == 1);

  // 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours.
  const Bleu one = of({"the cat sat on a mat"}, {"the cat sat on the mat"});
  CHECK(one.precisions[0] == Approx(5.0 / 6));
  CHECK(one.precisions[1] == Approx(3.0 / 5));
  CHECK(one.precisions[2] == Approx(2.0 / 4));
  CHECK(one.precisions[3] == Approx(1.0 / 3));
  CHECK(one.score == Approx(100 * std::pow(5.0 / 6 * 3 / 5 * 2 / 4 * 1 / 3, 0.25)));

  // All right and two words short: exp(1 - 6 / 4).
  const Bleu brief = of({"the cat sat on"}, {"the cat sat on the mat"});
  CHECK(brief.brevity_penalty == Approx(std::exp(-0.5)));
  CHECK(brief.score == Approx(100 * std::exp(-0.5)));

  // Counts are summed over the corpus: 9 of 10, 6 of 8, 4 of 6, 3 of 4; and the second sentence,
  // which alone has no right four, still adds to the whole.
  const Bleu corpus = of({"the cat sat on the mat", "a dog ran home"},
                         {"the cat sat on the mat", "a dog walked home"});
  CHECK(corpus.precisions[0] == Approx(9.0 / 10));
  CHECK(corpus.precisions[1] == Approx(6.0 / 8));
  CHECK(corpus.precisions[2] == Approx(4.0 / 6));
  CHECK(corpus.precisions[3] == Approx(3.0 / 4));
  CHECK(corpus.hypotheses == 10);
  CHECK(corpus.references == 10);
}

TEST_CASE("BLEU of nothing is 0, of unequal numbers an error") {
  CHECK(of({""}, {"a b"}).score == 0);
  CHECK(of({}, {}).score == 0);
  CHECK(of({"a b c"}, {"a b c"}).score == 0);  // no four words
  CHECK(has(message_of([] { of({"a"}, {"a", "b"}); }), "1 hypotheses for 2"));
}
