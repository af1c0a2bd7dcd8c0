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
};

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
