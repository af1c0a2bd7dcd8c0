#include <unroll/graph/error.h>
#include <unroll/io/text.h>

#include "../catch.h"
#include "files.h"

using namespace unroll;

TEST_CASE("read_text reads UTF-8 and nothing else", "[io]") {
  const TemporaryDirectory directory;
  const auto path = directory / "a.txt";
  const auto refusal = [&](std::string_view text) {
    write_plainly(path, text);
    return message_of<DataError>([&] { read_text(path); });
  };
  const std::string text = "caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x8E\xB5\r\n";
  write_plainly(path, text);
  CHECK(read_text(path) == text);
  write_plainly(path, "\xEF\xBB\xBF" + text);
  CHECK(read_text(path) == text);
  const std::string large(300'001, 'x');
  write_plainly(path, large);
  CHECK(read_text(path) == large);

  CHECK(has(refusal(""), "is empty"));
  CHECK(has(refusal("ab\xFF"), "byte 0xFF at offset 2"));
  for (const char* bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xC3", "\xC3(", "\xE2\x82", "\xE2(\xAC", "\xE0\x80\x80",
        "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xF0\x9F\x8E", "\xFE"})
    CHECK(has(refusal(std::string("ab") + bad), "at offset 2"));
  CHECK(has(message_of<DataError>([&] { read_text(directory / "none"); }), "none"));
  CHECK(has(message_of<DataError>([&] { read_text(directory.path()); }), "is a directory"));
}

TEST_CASE("every code point survives UTF-8", "[io]") {
  for (char32_t c = 1; c < 0x110000; c += 1 + c / 64) {
    if (c >= 0xD800 && c < 0xE000) continue;
    REQUIRE(decode_utf8(encode_utf8(c)) == std::u32string(1, c));
  }
  CHECK(decode_utf8(encode_utf8(0x10FFFF)) == std::u32string(1, 0x10FFFF));
}

TEST_CASE("a byte vocabulary knows everything", "[io]") {
  const auto vocabulary = Vocabulary::bytes();
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  CHECK(vocabulary.size() == 256);
  CHECK(vocabulary.encode(all)[255] == 255);
  CHECK(vocabulary.decode(vocabulary.encode(all)) == all);
  CHECK(Vocabulary::from_json(vocabulary.to_json()) == vocabulary);
  CHECK(vocabulary.symbols()[65] == "A");
}

TEST_CASE("a character vocabulary is sorted and complete", "[io]") {
  const std::string text =
      "b\xC3\xA9"
      "a\nb\xF0\x9F\x8E\xB5";
  const auto vocabulary = Vocabulary::characters(text);
  CHECK(vocabulary.size() == 5);
  CHECK(vocabulary.symbols() ==
        std::vector<std::string>{"\n", "a", "b", "\xC3\xA9", "\xF0\x9F\x8E\xB5"});
  CHECK(vocabulary.encode(text) == std::vector<std::int64_t>{2, 3, 1, 0, 2, 4});
  const Tensor indices = vocabulary.encode_tensor(text);
  CHECK(indices.shape() == Shape{6});
  CHECK(vocabulary.decode(indices) == text);
  CHECK(vocabulary.encode("").empty());
  CHECK(vocabulary.encode_tensor("").shape() == Shape{0});
  CHECK(!vocabulary.unknown());
  CHECK(Vocabulary::from_json(vocabulary.to_json()) == vocabulary);

  const auto message =
      message_of<DataError>([&] { vocabulary.encode("ab\na\xC3\xA9\xE2\x82\xAC"); });
  INFO(message);
  CHECK(has(message_of([&] { vocabulary.encode("a\r"); }), "[encode] U+000D at line 1, column 2"));
  CHECK(has(message, "'\xE2\x82\xAC' (U+20AC) at line 2, column 3 (byte 6)"));
  CHECK_THROWS_AS(vocabulary.encode("a\xFF"), DataError);
  CHECK_THROWS_AS(vocabulary.decode(std::vector<std::int64_t>{5}), DataError);
  CHECK_THROWS_AS(vocabulary.decode(std::vector<std::int64_t>{-1}), DataError);
  CHECK_THROWS_AS(Vocabulary::characters(""), DataError);
  CHECK_THROWS_AS(Vocabulary::characters("\xFF"), DataError);
}

TEST_CASE("an unknown index stands for all others", "[io]") {
  const auto vocabulary = Vocabulary::characters("ba", {.unknown = true});
  CHECK(vocabulary.size() == 3);
  CHECK(vocabulary.unknown() == 2);
  CHECK(vocabulary.encode("a?b!") == std::vector<std::int64_t>{0, 2, 1, 2});
  CHECK(vocabulary.decode(std::vector<std::int64_t>{0, 2}) == "a\xEF\xBF\xBD");
  CHECK(Vocabulary::from_json(vocabulary.to_json()) == vocabulary);
}

TEST_CASE("a vocabulary's JSON is not trusted", "[io]") {
  for (const char* text :
       {"", "{", "[]", "1", "{}", R"({"kind":"words"})", R"({"kind":1})",
        R"({"kind":"characters"})", R"({"kind":"characters","characters":"ab"})",
        R"({"kind":"characters","characters":"","unknown":false})",
        R"({"kind":"characters","characters":"ba","unknown":false})",
        R"({"kind":"characters","characters":"aa","unknown":false})",
        R"({"kind":"characters","characters":["a"],"unknown":false})",
        R"({"kind":"characters","characters":"ab","unknown":1})", "{\"kind\":\"\xFF\"}"})
    CHECK_THROWS_AS(Vocabulary::from_json(text), DataError);
  CHECK_THROWS_AS(Vocabulary::from_json(std::string(1'000'000, '[')), DataError);
  CHECK_THROWS_AS(Vocabulary::from_json(std::string(500'000, '[') + std::string(500'000, ']')),
                  DataError);
}

TEST_CASE("Tiny Shakespeare has 65 characters", "[io]") {
  const auto path = external_data("tinyshakespeare/input.txt");
  if (path.empty()) {
    WARN("skipped: tinyshakespeare/input.txt is not in $UNROLL_DATA");
    return;
  }
  const std::string text = read_text(path);
  const auto vocabulary = Vocabulary::characters(text);
  CHECK(vocabulary.size() == 65);
  CHECK(vocabulary.decode(vocabulary.encode_tensor(text)) == text);
}
