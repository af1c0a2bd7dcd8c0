#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unroll {

/// The first symbols of every TokenVocabulary.
inline constexpr std::int64_t pad_token = 0, start_token = 1, end_token = 2, unknown_token = 3;

enum class Tokenization : std::uint8_t {
  words,       ///< lower-cased; cut at white space, every punctuation mark alone
  characters,  ///< code points as they are
};

/// Throws DataError where `text` is not UTF-8. Lower case is that of ASCII and of the Latin-1,
/// Greek and Cyrillic letters.
std::vector<std::string> tokenize(std::string_view text, Tokenization how);

/// A text's lines, without their ends; one at the end that is empty is none.
std::vector<std::string> lines_of(const std::string& text);

struct TokenVocabularyOptions {
  std::int64_t most = 0;      ///< symbols in all, the most frequent ones; 0: no bound
  std::int64_t at_least = 1;  ///< occurrences
};

/// Which index stands for which token: <pad>, <s>, </s> and <unk>, then tokens by falling
/// frequency, of equally frequent ones the alphabetically first.
class TokenVocabulary {
 public:
  /// Of the tokens of `lines`. Throws Error where `most` leaves room for no token.
  TokenVocabulary(std::span<const std::string> lines, Tokenization how,
                  const TokenVocabularyOptions& options = {});

  std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }
  Tokenization tokenization() const { return how_; }
  const std::vector<std::string>& tokens() const { return tokens_; }

  /// Tokens as indices, <unk> for those not known; no <s> or </s> is added.
  std::vector<std::int64_t> encode(std::string_view text) const;
  /// Words with spaces between, or characters; <pad>, <s> and </s> are left out. Throws DataError
  /// for an index outside 0..size() - 1.
  std::string decode(std::span<const std::int64_t> indices) const;

  std::string to_json() const;
  /// Throws DataError for anything but what to_json() writes.
  static TokenVocabulary from_json(std::string_view text);

 private:
  TokenVocabulary() = default;
  void add(std::string token);

  Tokenization how_ = Tokenization::words;
  std::vector<std::string> tokens_;
  std::map<std::string, std::int64_t, std::less<>> index_;
};

}  // namespace unroll
