#include <fmt/format.h>
#include <unroll/io/fail_data.h>
#include <unroll/io/tagged_text.h>
#include <unroll/io/text.h>

#include <algorithm>
#include <cstdint>

namespace unroll {

std::vector<TaggedSentence> parse_tagged_text(std::string_view text,
                                              const TaggedTextOptions& options,
                                              const std::string& name) {
  if (options.word_column < 0 || options.tag_column < 0)
    fail("tagged text", fmt::format("columns {} and {}", options.word_column, options.tag_column));
  std::vector<TaggedSentence> sentences;
  TaggedSentence sentence;
  const auto finish = [&] {
    if (!sentence.words.empty()) sentences.push_back(std::move(sentence));
    sentence = {};
  };
  std::int64_t number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) {
      finish();
      continue;
    }
    if (sentence.words.empty() && line.starts_with("# ")) continue;
    const auto column = [&](int wanted) {
      std::string_view rest = line;
      for (int i = 0; i < wanted; ++i) {
        const std::size_t tab = rest.find('\t');
        if (tab == std::string_view::npos)
          fail_data("tagged text", fmt::format("'{}' line {}: no column {}", name, number, wanted),
                    "Columns are counted from 0 and separated by tabs");
        rest.remove_prefix(tab + 1);
      }
      const std::string field(rest.substr(0, rest.find('\t')));
      if (field.empty())
        fail_data("tagged text",
                  fmt::format("'{}' line {}: column {} is empty", name, number, wanted));
      return field;
    };
    if (options.numbered &&
        !std::ranges::all_of(column(0), [](char c) { return '0' <= c && c <= '9'; }))
      continue;
    sentence.words.push_back(column(options.word_column));
    sentence.tags.push_back(column(options.tag_column));
  }
  finish();
  if (sentences.empty()) fail_data("tagged text", fmt::format("'{}' has no words", name));
  return sentences;
}

std::vector<TaggedSentence> read_tagged_text(const std::filesystem::path& path,
                                             const TaggedTextOptions& options) {
  return parse_tagged_text(read_text(path), options, path.string());
}

}  // namespace unroll
