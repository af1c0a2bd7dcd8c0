#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace unroll {

/// A sentence whose words carry a tag each.
struct TaggedSentence {
  std::vector<std::string> words, tags;
};

struct TaggedTextOptions {
  int word_column = 0;  ///< counted from 0
  int tag_column = 1;
  /// A row whose first column is not a whole number is no word: in CoNLL-U, "3-4" stands for two
  /// words written as one, and "8.1" for one that is not written.
  bool numbered = false;
};

/// CoNLL-U, the files of Universal Dependencies: FORM and UPOS.
inline constexpr TaggedTextOptions conllu{.word_column = 1, .tag_column = 3, .numbered = true};

/// Reads UTF-8 text with a word a line, its columns separated by tabs, and a blank line behind
/// every sentence. Lines that begin with "# " before a sentence's first word are comments. Throws
/// DataError naming the line where a column is missing or empty, and for a text without a word.
std::vector<TaggedSentence> read_tagged_text(const std::filesystem::path& path,
                                             const TaggedTextOptions& options = {});
/// The same from memory. `name` stands for the file in error messages.
std::vector<TaggedSentence> parse_tagged_text(std::string_view text,
                                              const TaggedTextOptions& options = {},
                                              const std::string& name = "memory");

}  // namespace unroll
