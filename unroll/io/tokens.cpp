#include <fmt/format.h>
#include <unroll/graph/error.h>
#include <unroll/io/fail_data.h>
#include <unroll/io/text.h>
#include <unroll/io/tokens.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace unroll {
namespace {

constexpr const char* special[] = {"<pad>", "<s>", "</s>", "<unk>"};

bool between(char32_t c, char32_t low, char32_t high) { return c >= low && c <= high; }

char32_t lower(char32_t c) {
  const bool latin = between(c, U'A', U'Z') || (between(c, 0xC0, 0xDE) && c != 0xD7);
  const bool greek = between(c, 0x391, 0x3A9), cyrillic = between(c, 0x410, 0x42F);
  if (latin || greek || cyrillic) return c + 32;
  return between(c, 0x400, 0x40F) ? c + 80 : c;
}

bool white(char32_t c) {
  return c == U' ' || between(c, 0x9, 0xD) || c == 0xA0 || between(c, 0x2000, 0x200B) ||
         c == 0x2028 || c == 0x2029 || c == 0x3000;
}

// ASCII, Latin-1 and general punctuation, and the marks of Chinese and Japanese.
bool punctuation(char32_t c) {
  const bool ascii = between(c, 0x21, 0x2F) || between(c, 0x3A, 0x40) || between(c, 0x5B, 0x60) ||
                     between(c, 0x7B, 0x7E);
  const bool latin = between(c, 0xA1, 0xBF) && c != 0xAA && c != 0xB5 && c != 0xBA;
  return ascii || latin || c == 0xD7 || c == 0xF7 || between(c, 0x2010, 0x206F) ||
         between(c, 0x3001, 0x303F);
}

}  // namespace

std::vector<std::string> tokenize(std::string_view text, Tokenization how) {
  std::vector<std::string> tokens;
  bool inside = false;  // a word goes on
  for (const char32_t c : decode_utf8(text)) {
    if (how == Tokenization::characters) {
      tokens.push_back(encode_utf8(c));
    } else if (white(c)) {
      inside = false;
    } else if (punctuation(c)) {
      tokens.push_back(encode_utf8(c));
      inside = false;
    } else {
      if (!inside) tokens.emplace_back();
      tokens.back() += encode_utf8(lower(c));
      inside = true;
    }
  }
  return tokens;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    if (lines.back().ends_with('\r')) lines.back().pop_back();
    begin = end + 1;
  }
  return lines;
}

TokenVocabulary::TokenVocabulary(std::span<const std::string> lines, Tokenization how,
                                 const TokenVocabularyOptions& options)
    : how_(how) {
  if (options.most != 0 && options.most <= unknown_token + 1)
    fail("TokenVocabulary", fmt::format("{} symbols leave no room beside the {} special ones",
                                        options.most, unknown_token + 1));
  std::map<std::string, std::int64_t> counts;
  for (const std::string& line : lines)
    for (std::string& token : tokenize(line, how)) ++counts[std::move(token)];
  std::vector<std::pair<std::int64_t, std::string>> sorted;
  for (const auto& [token, count] : counts)
    if (count >= options.at_least) sorted.emplace_back(-count, token);
  std::sort(sorted.begin(), sorted.end());
  for (const char* one : special) add(one);
  for (auto& [count, token] : sorted) {
    if (options.most > 0 && size() == options.most) break;
    // A text of characters or words cut at punctuation has none of these; a vocabulary is no place
    // for two tokens of one name.
    if (!index_.contains(token)) add(std::move(token));
  }
}

void TokenVocabulary::add(std::string token) {
  index_.emplace(token, size());
  tokens_.push_back(std::move(token));
}

std::vector<std::int64_t> TokenVocabulary::encode(std::string_view text) const {
  std::vector<std::int64_t> indices;
  for (const std::string& token : tokenize(text, how_)) {
    const auto found = index_.find(token);
    indices.push_back(found == index_.end() ? unknown_token : found->second);
  }
  return indices;
}

std::string TokenVocabulary::decode(std::span<const std::int64_t> indices) const {
  std::string text;
  for (const std::int64_t i : indices) {
    if (i < 0 || i >= size())
      fail_data("TokenVocabulary", fmt::format("index {} of {} symbols", i, size()));
    if (i < unknown_token) continue;
    if (how_ == Tokenization::words && !text.empty()) text += ' ';
    text += tokens_[static_cast<std::size_t>(i)];
  }
  return text;
}

std::string TokenVocabulary::to_json() const {
  return nlohmann::json{
      {"kind", how_ == Tokenization::words ? "words" : "characters"},
      {"tokens", std::vector<std::string>(tokens_.begin() + unknown_token + 1, tokens_.end())}}
      .dump();
}

TokenVocabulary TokenVocabulary::from_json(std::string_view text) {
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    TokenVocabulary result;
    const auto kind = json.at("kind").get<std::string>();
    if (kind != "words" && kind != "characters")
      fail_data("TokenVocabulary", fmt::format("unknown kind '{}'", kind));
    result.how_ = kind == "words" ? Tokenization::words : Tokenization::characters;
    for (const char* one : special) result.add(one);
    for (const nlohmann::json& one : json.at("tokens")) {
      auto token = one.get<std::string>();
      if (result.index_.contains(token))
        fail_data("TokenVocabulary", fmt::format("'{}' is there twice", token));
      result.add(std::move(token));
    }
    return result;
  } catch (const nlohmann::json::exception& error) {
    fail_data("TokenVocabulary", error.what());
  }
}

}  // namespace unroll
