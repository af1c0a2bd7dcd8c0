#include <unroll/io/tagged_text.h>

#include "../catch.h"
#include "files.h"

using namespace unroll;

namespace {

using Names = std::vector<std::string>;

std::string refusal(std::string_view text, const TaggedTextOptions& options = {}) {
  return message_of<DataError>([&] { parse_tagged_text(text, options, "here"); });
}

}  // namespace

TEST_CASE("tagged text is words and tags, sentence by sentence", "[io]") {
  const auto sentences = parse_tagged_text(
      "# a comment\nThe\tDET\tDT\ncat\tNOUN\tNN\r\n\n\n#\tSYM\t#\n# x\tSYM\t#\n\nIt's\tX\tY");
  REQUIRE(sentences.size() == 3);
  CHECK(sentences[0].words == Names{"The", "cat"});
  CHECK(sentences[0].tags == Names{"DET", "NOUN"});
  CHECK(sentences[1].words == Names{"#", "# x"});
  CHECK(sentences[2].words == Names{"It's"});
  const auto other =
      parse_tagged_text("1\tThe\tDET\n2\tcat\tNOUN\n", {.word_column = 1, .tag_column = 2});
  CHECK(other[0].words == Names{"The", "cat"});
}

TEST_CASE("CoNLL-U is read without ranges and empty nodes", "[io]") {
  const auto sentences = parse_tagged_text(
      "# sent_id = 1\n# text = I don't\n"
      "1\tI\tI\tPRON\tPRP\t_\t3\tnsubj\t_\t_\n"
      "2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n"
      "2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_\n"
      "3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_\n"
      "3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_\n\n",
      conllu);
  REQUIRE(sentences.size() == 1);
  CHECK(sentences[0].words == Names{"I", "do", "n't"});
  CHECK(sentences[0].tags == Names{"PRON", "AUX", "PART"});
  CHECK(has(refusal("1\tI\tI\n", conllu), "line 1: no column 3"));
}

TEST_CASE("tagged text names the line of what is wrong", "[io]") {
  CHECK(has(refusal("a\tX\nb\n"), "'here' line 2: no column 1"));
  CHECK(has(refusal("a\tX\n\nb\t\n"), "'here' line 3: column 1 is empty"));
  CHECK(has(refusal("\tX\n"), "line 1: column 0 is empty"));
  CHECK(has(refusal("a\tX\n", {.tag_column = 2}), "no column 2"));
  CHECK(has(refusal("\n\n"), "no words"));
  CHECK(has(refusal(""), "no words"));
  const TemporaryDirectory directory;
  CHECK_THROWS_AS(read_tagged_text(directory / "none"), DataError);
  CHECK_THROWS_AS(read_tagged_text(write_plainly(directory / "bytes", "a\tX\n\xff\tX\n")),
                  DataError);
}

TEST_CASE("Universal Dependencies English as it is counted", "[io]") {
  const auto path = external_data("ud_english_ewt/test.tsv");
  if (path.empty()) {
    WARN("skipped: ud_english_ewt is not in $UNROLL_DATA");
    return;
  }
  const auto sentences = read_tagged_text(path);
  std::size_t words = 0;
  for (const TaggedSentence& one : sentences) words += one.words.size();
  CHECK(sentences.size() == 2077);
  CHECK(words == 25094);
}
