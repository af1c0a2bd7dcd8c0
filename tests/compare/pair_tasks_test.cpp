// Dates and numbers: every answer is found again from the text by other means.

#include <fmt/format.h>
#include <unroll/compare/pair_tasks.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "../catch.h"

using namespace unroll;

namespace {

// Words and numbers of a date, whatever stands between.
std::vector<std::string> parts_of(const std::string& text) {
  std::vector<std::string> parts;
  bool digits = false, open = false;
  for (const char c : text) {
    const bool digit = c >= '0' && c <= '9', letter = c >= 'a' && c <= 'z';
    if (!digit && !letter) {
      open = false;
      continue;
    }
    if (!open || digit != digits) parts.emplace_back();
    parts.back() += c;
    digits = digit;
    open = true;
  }
  return parts;
}

std::string iso_of(const std::string& text) {
  const char* names[] = {"jan", "feb", "mar", "apr", "may", "jun",
                         "jul", "aug", "sep", "oct", "nov", "dec"};
  std::vector<int> numbers;
  int month = 0;
  for (const std::string& part : parts_of(text)) {
    if (part[0] <= '9') {
      numbers.push_back(std::stoi(part));
      continue;
    }
    for (int m = 0; m < 12; ++m)
      if (part.size() >= 3 && part.substr(0, 3) == names[m]) month = m + 1;
  }
  int day = 0, year = numbers.back();
  if (month > 0) {
    REQUIRE(numbers.size() == 2);
    day = numbers[0];
  } else {
    REQUIRE(numbers.size() == 3);
    const bool american = has(text, "/");
    month = numbers[american ? 0 : 1];
    day = numbers[american ? 1 : 0];
  }
  if (year < 100) year += year < 50 ? 2000 : 1900;
  return fmt::format("{:04}-{:02}-{:02}", year, month, day);
}

std::int64_t number_of(const std::string& words) {
  const std::map<std::string, std::int64_t> values{
      {"zero", 0},     {"one", 1},      {"two", 2},        {"three", 3},     {"four", 4},
      {"five", 5},     {"six", 6},      {"seven", 7},      {"eight", 8},     {"nine", 9},
      {"ten", 10},     {"eleven", 11},  {"twelve", 12},    {"thirteen", 13}, {"fourteen", 14},
      {"fifteen", 15}, {"sixteen", 16}, {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19},
      {"twenty", 20},  {"thirty", 30},  {"forty", 40},     {"fifty", 50},    {"sixty", 60},
      {"seventy", 70}, {"eighty", 80},  {"ninety", 90}};
  const std::map<std::string, std::int64_t> scales{
      {"thousand", 1000}, {"million", 1'000'000}, {"billion", 1'000'000'000}};
  std::int64_t total = 0, part = 0;
  for (const std::string& word : tokenize(words, Tokenization::words)) {
    if (word == "hundred") {
      part *= 100;
    } else if (scales.contains(word)) {
      total += part * scales.at(word);
      part = 0;
    } else {
      part += values.at(word);
    }
  }
  return total + part;
}

}  // namespace

TEST_CASE("every date's answer is found again from its text") {
  const PairTask& task = pair_task("dates");
  Generator generator(1);
  std::set<std::string> shapes;
  for (int i = 0; i < 4000; ++i) {
    const TextPair pair = task.draw(generator);
    CAPTURE(pair.source);
    CHECK(iso_of(pair.source) == pair.target);
    using namespace std::chrono;
    const year_month_day day{
        year(std::stoi(pair.target.substr(0, 4))),
        month(static_cast<unsigned>(std::stoi(pair.target.substr(5, 2)))),
        std::chrono::day(static_cast<unsigned>(std::stoi(pair.target.substr(8, 2))))};
    CHECK(day.ok());
    CHECK(pair.target.size() == 10);
    const char* names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};
    if (has(pair.source, "day,"))
      CHECK(pair.source.substr(0, 3) == names[weekday(sys_days(day)).c_encoding()]);
    std::string shape;
    for (const char c : pair.source) shape += c >= '0' && c <= '9' ? '0' : c >= 'a' ? 'a' : c;
    shapes.insert(shape);
  }
  CHECK(shapes.size() > 30);
}

TEST_CASE("numbers in words are the numbers") {
  CHECK(number_words(0) == "zero");
  CHECK(number_words(15) == "fifteen");
  CHECK(number_words(80) == "eighty");
  CHECK(number_words(100) == "one hundred");
  CHECK(number_words(207'001) == "two hundred seven thousand one");
  CHECK(number_words(1'000'000) == "one million");
  CHECK(number_words(999'999'999'999) ==
        "nine hundred ninety nine billion nine hundred ninety nine million "
        "nine hundred ninety nine thousand nine hundred ninety nine");
  CHECK_THROWS_AS(number_words(-1), Error);
  CHECK_THROWS_AS(number_words(1'000'000'000'000), Error);
  Generator generator(2);
  std::map<std::size_t, int> digits;
  for (int i = 0; i < 3000; ++i) {
    const TextPair out = pair_task("spell-out").draw(generator);
    CHECK(std::to_string(number_of(out.target)) == out.source);
    ++digits[out.source.size()];
    const TextPair in = pair_task("number-words").draw(generator);
    CHECK(std::to_string(number_of(in.source)) == in.target);
  }
  for (std::size_t n = 1; n <= 12; ++n) CHECK(std::abs(digits[n] - 250) < 80);
  CHECK(has(message_of([] { pair_task("poems"); }), "dates, number-words, spell-out"));
}
