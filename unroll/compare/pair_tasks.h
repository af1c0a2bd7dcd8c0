#pragma once

#include <unroll/graph/generator.h>
#include <unroll/io/tokens.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unroll {

struct TextPair {
  std::string source, target;
};

/// A task of turning one text into another with one right answer for each.
struct PairTask {
  const char* name;
  const char* summary;
  Tokenization source, target;
  TextPair (*draw)(Generator& generator);
};

/// dates: a date as people write it to year-month-day. Years of two digits are 1950 to 2049, in
/// 7/31/1984 the month comes first, in 31.7.1984 the day.
/// number-words: up to 12 digits, from words to digits. spell-out: from digits to words, the number
/// of digits drawn evenly from 1 to 12.
std::span<const PairTask> pair_tasks();
/// Throws Error for an unknown name, listing the known ones.
const PairTask& pair_task(std::string_view name);

/// "two hundred seven thousand one"; 0 to 999 999 999 999. Throws Error beyond.
std::string number_words(std::int64_t number);

}  // namespace unroll
