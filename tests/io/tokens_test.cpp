// Words, characters, and their vocabularies.

#include <unroll/io/tokens.h>

#include "../catch.h"

using namespace unroll;

namespace {

using Tokens = std::vector<std::string>;

Tokens words(std::string_view text) { return tokenize(text, Tokenization::words); }

}  // namespace

TEST_CASE("words are lower-cased and cut at white space and punctuation") {
  CHECK(words("Two young, White males.") == Tokens{"two", "young", ",", "white", "males", "."});
  CHECK(words("  don't-- stop\t!?\n") == Tokens{"don", "'", "t", "-", "-", "stop", "!", "?"});
  CHECK(words("ÜBER Straße ÉTÉ × 5") == Tokens{"über", "straße", "été", "×", "5"});
  CHECK(words("ΑΒΓ Жук Ёж") == Tokens{"αβγ", "жук", "ёж"});
  CHECK(words("„Hallo“ – 3.5 €") == Tokens{"„", "hallo", "“", "–", "3", ".", "5", "€"});
  CHECK(words("a\xC2\xA0"
              "b")
            .size() == 2);  // a no-break space
  CHECK(words("").empty());
  CHECK(tokenize("Ab ß", Tokenization::characters) == Tokens{"A", "b", " ", "ß"});
  CHECK_THROWS_AS(words("\xFF"), DataError);
}

TEST_CASE("a token vocabulary is sorted by frequency, and goes to JSON and back") {
  const Tokens lines{"b b a", "A c b d", "a."};
  const TokenVocabulary all(lines, Tokenization::words);
  CHECK(all.tokens() == Tokens{"<pad>", "<s>", "</s>", "<unk>", "a", "b", ".", "c", "d"});
  CHECK(all.encode("b zebra A") == std::vector<std::int64_t>{5, unknown_token, 4});
  CHECK(all.decode(std::vector<std::int64_t>{start_token, 5, unknown_token, 4, end_token}) ==
        "b <unk> a");
  const TokenVocabulary few(lines, Tokenization::words, {.most = 6});
  CHECK(few.tokens().back() == "b");
  CHECK(TokenVocabulary(lines, Tokenization::words, {.at_least = 3}).size() == 6);
  const TokenVocabulary again = TokenVocabulary::from_json(all.to_json());
  CHECK(again.tokens() == all.tokens());
  CHECK(again.tokenization() == Tokenization::words);
  const TokenVocabulary letters(lines, Tokenization::characters);
  CHECK(letters.decode(letters.encode("A b.")) == "A b.");
  CHECK(TokenVocabulary::from_json(letters.to_json()).tokenization() == Tokenization::characters);
}

TEST_CASE("malformed token vocabularies are refused") {
  for (const char* text :
       {"", "[]", "{}", R"({"kind": "words"})", R"({"kind": "bytes", "tokens": []})",
        R"({"kind": "words", "tokens": ["a", "a"]})", R"({"kind": "words", "tokens": [1]})",
        R"({"kind": "words", "tokens": ["<s>"]})"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(TokenVocabulary::from_json(text), DataError);
  }
  const TokenVocabulary one(Tokens{"a"}, Tokenization::words);
  CHECK_THROWS_AS(one.decode(std::vector<std::int64_t>{5}), DataError);
  CHECK_THROWS_AS(TokenVocabulary(Tokens{"a"}, Tokenization::words, {.most = 4}), Error);
}

TEST_CASE("lines are those between line ends") {
  CHECK(lines_of("a\nb\r\n\nc") == Tokens{"a", "b", "", "c"});
  CHECK(lines_of("a\n") == Tokens{"a"});
}
