#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unroll {

/// The whole of a UTF-8 file, without its byte order mark if it has one. Throws DataError for a
/// file that is missing, a directory, empty or not UTF-8 (naming the offset of the first bad byte).
std::string read_text(const std::filesystem::path& path);

/// Code points, one after the other. Throws DataError naming the offset of the first bad byte.
std::u32string decode_utf8(std::string_view text);
std::string encode_utf8(char32_t character);

struct VocabularyOptions {
  bool unknown = false;  ///< one more index, the last, for all characters that are not known
};

/// Which index stands for which symbol of a text.
///
///     auto vocabulary = Vocabulary::characters(text);
///     Tensor x = vocabulary.encode_tensor(text);  // [T] i64
class Vocabulary {
 public:
  /// The 256 byte values: knows every text, whatever its encoding.
  static Vocabulary bytes();
  /// The Unicode code points that occur in `text`, in their order: the same text gives the same
  /// indices. Throws DataError where it is not UTF-8 or empty.
  static Vocabulary characters(std::string_view text, const VocabularyOptions& options = {});

  std::int64_t size() const;
  /// What each index stands for; the unknown index shows as U+FFFD.
  std::vector<std::string> symbols() const;
  std::optional<std::int64_t> unknown() const;

  /// Throws DataError for invalid UTF-8 and, where there is no unknown index, for a character
  /// that is not in the vocabulary, naming it and its place.
  std::vector<std::int64_t> encode(std::string_view text) const;
  /// The same as an i64 tensor [T].
  Tensor encode_tensor(std::string_view text) const;

  /// Throws DataError for an index outside 0 to size() - 1. Bytes of a cut character come back as
  /// they are, so that the text need not be UTF-8.
  std::string decode(std::span<const std::int64_t> indices) const;
  std::string decode(const std::vector<std::int64_t>& indices) const {
    return decode(std::span<const std::int64_t>(indices));
  }
  /// Of an i64 tensor of any shape, in row-major order.
  std::string decode(const Tensor& indices) const { return decode(indices.data<std::int64_t>()); }

  /// JSON text, for a model's file.
  std::string to_json() const;
  /// Throws DataError for anything but what to_json() writes.
  static Vocabulary from_json(std::string_view text);

  friend bool operator==(const Vocabulary&, const Vocabulary&) = default;

 private:
  Vocabulary() = default;
  std::int64_t index_of(char32_t character) const;  // -1: not known

  bool bytes_ = false;
  bool has_unknown_ = false;
  std::u32string characters_;  // sorted
};

}  // namespace unroll
