#include <fmt/format.h>
#include <unroll/io/fail_data.h>
#include <unroll/io/text.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using nlohmann::json;

constexpr char32_t invalid = 0xFFFFFFFF;
constexpr char32_t replacement = 0xFFFD;  // shown for what is not known

// The code point at `place`, which moves behind it; `invalid` where there is none (RFC 3629: no
// overlong forms, no surrogates, nothing above U+10FFFF).
char32_t next_character(std::string_view text, std::size_t& place) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(place);
  if (first < 0x80) return ++place, first;
  const int length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() - place < static_cast<std::size_t>(length))
    return invalid;
  char32_t character = first & (0xFF >> (length + 1));
  for (int i = 1; i < length; ++i) {
    if ((byte(place + i) & 0xC0) != 0x80) return invalid;
    character = character << 6 | (byte(place + i) & 0x3F);
  }
  constexpr char32_t least[] = {0x80, 0x800, 0x10000};
  if (character < least[length - 2] || character > 0x10FFFF ||
      (character >= 0xD800 && character < 0xE000))
    return invalid;
  place += length;
  return character;
}

// Calls f(character, offset) for every code point; `what` names the text in errors.
template <class F>
void for_each_character(const char* op, std::string_view text, const std::string& what, F f) {
  for (std::size_t place = 0; place < text.size();) {
    const std::size_t offset = place;
    const char32_t character = next_character(text, place);
    if (character == invalid)
      fail_data(op,
                fmt::format("{} is not UTF-8: byte 0x{:02X} at offset {}", what,
                            static_cast<unsigned char>(text[offset]), offset),
                "Convert it to UTF-8");
    f(character, offset);
  }
}

std::string place_of(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const auto line_begin = before.find_last_of('\n') + 1;  // npos + 1 is 0
  const auto column = 1 + std::count_if(before.begin() + line_begin, before.end(), [](char c) {
                        return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
                      });
  return fmt::format("line {}, column {} (byte {})", line, column, offset);
}

}  // namespace

std::string read_text(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    fail_data("read_text", fmt::format("'{}' is a directory", path.string()));
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file)
    fail_data("read_text",
              fmt::format("'{}' cannot be opened: {}", path.string(), std::strerror(errno)));
  std::string text;
  char block[1 << 16];
  while (file.read(block, sizeof block) || file.gcount() > 0)
    text.append(block, static_cast<std::size_t>(file.gcount()));
  if (file.bad()) fail_data("read_text", fmt::format("'{}' cannot be read", path.string()));
  if (text.empty()) fail_data("read_text", fmt::format("'{}' is empty", path.string()));
  for_each_character("read_text", text, fmt::format("'{}'", path.string()),
                     [](char32_t, std::size_t) {});
  constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
  if (text.starts_with(byte_order_mark)) text.erase(0, byte_order_mark.size());
  return text;
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string characters;
  for_each_character("decode_utf8", text, "the text",
                     [&](char32_t character, std::size_t) { characters += character; });
  return characters;
}

std::string encode_utf8(char32_t c) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
}

Vocabulary Vocabulary::bytes() {
  Vocabulary result;
  result.bytes_ = true;
  return result;
}

Vocabulary Vocabulary::characters(std::string_view text, const VocabularyOptions& options) {
  if (text.empty()) fail_data("vocabulary", "an empty text has no characters");
  // Marking what occurs is far faster than sorting the text itself.
  std::vector<bool> occurs(0x110000);
  for_each_character("vocabulary", text, "the text",
                     [&](char32_t character, std::size_t) { occurs[character] = true; });
  Vocabulary result;
  result.has_unknown_ = options.unknown;
  for (char32_t character = 0; character < occurs.size(); ++character)
    if (occurs[character]) result.characters_ += character;
  return result;
}

std::int64_t Vocabulary::size() const {
  if (bytes_) return 256;
  return static_cast<std::int64_t>(characters_.size()) + (has_unknown_ ? 1 : 0);
}

std::optional<std::int64_t> Vocabulary::unknown() const {
  if (!has_unknown_) return std::nullopt;
  return size() - 1;
}

std::vector<std::string> Vocabulary::symbols() const {
  std::vector<std::string> result;
  for (std::int64_t i = 0; i < size(); ++i) result.push_back(decode(std::span(&i, 1)));
  return result;
}

std::int64_t Vocabulary::index_of(char32_t character) const {
  const auto found = std::lower_bound(characters_.begin(), characters_.end(), character);
  if (found == characters_.end() || *found != character) return has_unknown_ ? size() - 1 : -1;
  return found - characters_.begin();
}

std::vector<std::int64_t> Vocabulary::encode(std::string_view text) const {
  std::vector<std::int64_t> indices;
  indices.reserve(text.size());
  if (bytes_) {
    for (char c : text) indices.push_back(static_cast<unsigned char>(c));
    return indices;
  }
  for_each_character("encode", text, "the text", [&](char32_t character, std::size_t offset) {
    const std::int64_t index = index_of(character);
    if (index >= 0) {
      indices.push_back(index);
      return;
    }
    const bool printable = character >= 0x20 && character != 0x7F;
    const std::string code = fmt::format("U+{:04X}", static_cast<unsigned>(character));
    fail_data("encode",
              fmt::format("{} at {} is not among the {} characters of the vocabulary",
                          printable ? fmt::format("'{}' ({})", encode_utf8(character), code) : code,
                          place_of(text, offset), size()),
              "Leave it out, or train on a text that has it (a vocabulary with .unknown = true, or "
              "of bytes, takes any character)");
  });
  return indices;
}

Tensor Vocabulary::encode_tensor(std::string_view text) const {
  const std::vector<std::int64_t> indices = encode(text);
  return Tensor::from(indices, {static_cast<std::int64_t>(indices.size())});
}

std::string Vocabulary::decode(std::span<const std::int64_t> indices) const {
  std::string text;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const std::int64_t index = indices[i];
    if (index < 0 || index >= size())
      fail_data("decode",
                fmt::format("index {} at position {} of a vocabulary of {}", index, i, size()));
    if (bytes_)
      text += static_cast<char>(index);
    else
      text += encode_utf8(index == unknown() ? replacement
                                             : characters_[static_cast<std::size_t>(index)]);
  }
  return text;
}

std::string Vocabulary::to_json() const {
  if (bytes_) return json{{"kind", "bytes"}}.dump();
  std::string characters;
  for (char32_t character : characters_) characters += encode_utf8(character);
  return json{{"kind", "characters"}, {"characters", characters}, {"unknown", has_unknown_}}.dump();
}

Vocabulary Vocabulary::from_json(std::string_view text) {
  const json value = json::parse(text, nullptr, false);  // "discarded" where it is no JSON
  const auto refuse = [](const char* why) { fail_data("vocabulary", why); };
  if (!value.is_object()) refuse("not a JSON object");
  const std::string kind =
      value.contains("kind") && value["kind"].is_string() ? value["kind"].get<std::string>() : "";
  if (kind == "bytes") return bytes();
  if (kind != "characters") refuse(R"("kind" is neither "bytes" nor "characters")");
  if (!value.contains("characters") || !value["characters"].is_string() ||
      !value.contains("unknown") || !value["unknown"].is_boolean())
    refuse(R"("characters" (a string) or "unknown" (a boolean) is missing)");
  Vocabulary result;
  result.has_unknown_ = value["unknown"];
  result.characters_ = decode_utf8(value["characters"].get<std::string>());
  // Strictly rising, or one character would have two indices.
  if (result.characters_.empty() ||
      std::adjacent_find(result.characters_.begin(), result.characters_.end(),
                         std::greater_equal<>()) != result.characters_.end())
    refuse("\"characters\" is empty, not sorted, or has a character twice");
  return result;
}

}  // namespace unroll
