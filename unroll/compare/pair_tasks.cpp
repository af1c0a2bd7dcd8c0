#include <fmt/format.h>
#include <unroll/compare/pair_tasks.h>
#include <unroll/graph/error.h>

#include <array>
#include <chrono>

namespace unroll {
namespace {

constexpr std::array months = {"january",   "february", "march",    "april",
                               "may",       "june",     "july",     "august",
                               "september", "october",  "november", "december"};
constexpr std::array weekdays = {"sunday",   "monday", "tuesday", "wednesday",
                                 "thursday", "friday", "saturday"};
constexpr std::array ones = {"zero",    "one",     "two",       "three",    "four",
                             "five",    "six",     "seven",     "eight",    "nine",
                             "ten",     "eleven",  "twelve",    "thirteen", "fourteen",
                             "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
constexpr std::array tens = {"",      "",      "twenty",  "thirty", "forty",
                             "fifty", "sixty", "seventy", "eighty", "ninety"};
constexpr std::array thousands = {"", " thousand", " million", " billion"};

const char* ordinal_end(unsigned day) {
  if (day / 10 == 1) return "th";
  return day % 10 == 1 ? "st" : day % 10 == 2 ? "nd" : day % 10 == 3 ? "rd" : "th";
}

TextPair date(Generator& generator) {
  using namespace std::chrono;
  constexpr sys_days first = year{1950} / January / 1, last = year{2049} / December / 31;
  const sys_days day = first + days(generator.below((last - first).count() + 1));
  const year_month_day ymd(day);
  const int y = static_cast<int>(ymd.year());
  const auto m = static_cast<unsigned>(ymd.month()), d = static_cast<unsigned>(ymd.day());
  const std::string name = months[m - 1], brief = name.substr(0, 3);
  const std::string two = fmt::format("{:02}", y % 100);
  const auto text = [&]() -> std::string {
    switch (generator.below(10)) {
      case 0:
        return fmt::format("{}{} of {} {}", d, ordinal_end(d), name, y);
      case 1:
        return fmt::format("{} {}, {}", brief, d, two);
      case 2:
        return fmt::format("{} {}, {}", name, d, y);
      case 3:
        return fmt::format("{} {} {}", d, brief, y);
      case 4:
        return fmt::format("{}/{}/{}", m, d, y);
      case 5:
        return fmt::format("{}.{}.{}", d, m, two);
      case 6:
        return fmt::format("{}, {} {} {}", weekdays[weekday(day).c_encoding()], d, name, y);
      case 7:
        return fmt::format("the {}{} of {}, {}", d, ordinal_end(d), name, y);
      case 8:
        return fmt::format("{} {}{} '{}", brief, d, ordinal_end(d), two);
      default:
        return fmt::format("{:02}.{:02}.{}", d, m, y);
    }
  };
  return {text(), fmt::format("{:04}-{:02}-{:02}", y, m, d)};
}

std::string hundreds(std::int64_t number) {
  std::string text;
  if (number >= 100) text = fmt::format("{} hundred", ones[static_cast<std::size_t>(number / 100)]);
  number %= 100;
  const auto add = [&](const char* word) {
    if (!text.empty()) text += ' ';
    text += word;
  };
  if (number >= 20) {
    add(tens[static_cast<std::size_t>(number / 10)]);
    number %= 10;
  }
  if (number > 0) add(ones[static_cast<std::size_t>(number)]);
  return text;
}

TextPair spell_out(Generator& generator) {
  std::int64_t number = generator.below(10);
  for (std::int64_t more = generator.below(12); more > 0; --more) {
    if (number == 0) number = 1 + generator.below(9);
    number = 10 * number + generator.below(10);
  }
  return {std::to_string(number), number_words(number)};
}

TextPair from_words(Generator& generator) {
  TextPair pair = spell_out(generator);
  return {std::move(pair.target), std::move(pair.source)};
}

constexpr PairTask tasks[] = {
    {"dates", "a date as people write it to year-month-day", Tokenization::characters,
     Tokenization::characters, date},
    {"number-words", "a number in words to digits", Tokenization::words, Tokenization::characters,
     from_words},
    {"spell-out", "a number in digits to words", Tokenization::characters, Tokenization::words,
     spell_out},
};

}  // namespace

std::string number_words(std::int64_t number) {
  if (number < 0 || number >= 1'000'000'000'000)
    fail("number_words", fmt::format("{} is not in 0 to 999 999 999 999", number));
  if (number == 0) return ones[0];
  std::string text;
  for (std::size_t group = 0; number > 0; ++group, number /= 1000) {
    if (number % 1000 == 0) continue;
    const std::string part = hundreds(number % 1000) + thousands[group];
    text = text.empty() ? part : fmt::format("{} {}", part, text);
  }
  return text;
}

std::span<const PairTask> pair_tasks() { return tasks; }

const PairTask& pair_task(std::string_view name) {
  std::string known;
  for (const PairTask& one : tasks) {
    if (name == one.name) return one;
    known += (known.empty() ? "" : ", ") + std::string(one.name);
  }
  fail("seq2seq", fmt::format("no task is named '{}'", name), "Known: " + known);
}

}  // namespace unroll
