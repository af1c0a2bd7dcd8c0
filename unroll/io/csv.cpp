#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unroll/io/csv.h>
#include <unroll/io/fail_data.h>
#include <unroll/io/text.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

namespace unroll {
namespace {

struct Row {
  std::vector<std::string> fields;
  std::int64_t line = 0;  // where it begins, counted from 1
};

// Cuts a text into rows.
class Reader {
 public:
  Reader(std::string_view text, char separator, const std::string& name)
      : text_(text), separator_(separator), name_(name) {}

  // False at the end. Blank lines there are not rows.
  bool next(Row& row) {
    if (text_.find_first_not_of("\r\n", place_) == std::string_view::npos) return false;
    row.fields.clear();
    row.line = line_;
    do {
      row.fields.push_back(field());
    } while (take(separator_));
    end_line();
    return true;
  }

  [[noreturn]] void fail(std::int64_t line, const std::string& problem,
                         const std::string& hint = {}) const {
    fail_data("read_csv", fmt::format("'{}' line {}: {}", name_, line, problem), hint);
  }

 private:
  bool done() const { return place_ == text_.size(); }
  bool at(char c) const { return !done() && text_[place_] == c; }
  bool take(char c) { return at(c) && ++place_ != 0; }

  std::string field() {
    if (take('"')) return quoted();
    const std::size_t begin = place_;
    while (!done() && !at(separator_) && !at('\n') && !at('\r')) ++place_;
    return std::string(text_.substr(begin, place_ - begin));
  }

  std::string quoted() {
    const std::int64_t begin = line_;
    std::string result;
    for (;;) {
      if (done()) fail(begin, "a quoted field does not end");
      if (take('"') && !at('"')) return result;  // two quotes stand for one
      if (at('\n')) ++line_;
      result += text_[place_++];
    }
  }

  void end_line() {
    const bool carriage_return = take('\r');
    if (take('\n') || carriage_return || done()) {
      ++line_;
      return;
    }
    fail(line_, fmt::format("'{}' after a quoted field", text_[place_]),
         "A quote inside a field is written twice");
  }

  std::string_view text_;
  char separator_;
  const std::string& name_;
  std::size_t place_ = 0;
  std::int64_t line_ = 1;
};

char detect_separator(std::string_view text) {
  int commas = 0, semicolons = 0, tabs = 0;
  bool in_quotes = false;
  for (char c : text) {
    if (c == '"') in_quotes = !in_quotes;
    if (in_quotes) continue;
    if (c == '\n') break;
    commas += c == ',';
    semicolons += c == ';';
    tabs += c == '\t';
  }
  if (tabs > commas && tabs > semicolons) return '\t';
  return semicolons > commas ? ';' : ',';
}

// Also "nan", "inf" and what overflows (as infinity): numbers, though not finite ones.
std::optional<double> number_in(std::string_view field) {
  const auto begin = field.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return std::nullopt;
  field = field.substr(begin, field.find_last_not_of(" \t") - begin + 1);
  if (field.size() > 1 && field[0] == '+' && field[1] != '-') field.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (end != field.data() + field.size() || error == std::errc::invalid_argument)
    return std::nullopt;
  return error == std::errc() ? value : HUGE_VAL;
}

struct Column {
  std::string name;
  std::vector<double> values{};
  std::int64_t numbers = 0;   // fields that are numbers, finite or not
  std::int64_t bad_line = 0;  // of the first field that is no finite number
  std::string bad{};

  void add(const std::string& field, std::int64_t line) {
    const std::optional<double> value = number_in(field);
    if (value) ++numbers;
    if (bad_line == 0 && !(value && std::isfinite(*value))) {
      bad_line = line;
      bad = field.substr(0, 40);
    }
    if (bad_line == 0) values.push_back(*value);
  }
};

std::vector<Column> columns_of(const Reader& reader, const Row& first, bool header) {
  std::vector<Column> columns;
  for (std::size_t i = 0; i < first.fields.size(); ++i) {
    const std::string name = header ? first.fields[i] : fmt::format("{}", i);
    const auto same = [&](const Column& column) { return column.name == name; };
    if (!name.empty() && std::any_of(columns.begin(), columns.end(), same))
      reader.fail(first.line, fmt::format("two columns are named '{}'", name));
    columns.push_back({.name = name});
  }
  if (header && std::all_of(first.fields.begin(), first.fields.end(),
                            [](const std::string& field) { return number_in(field); }))
    reader.fail(first.line, "the first row holds numbers, not names",
                "Give .header = false if there are no names");
  return columns;
}

// All columns, text ones too.
std::vector<Column> read_columns(Reader& reader, bool header) {
  Row row;
  if (!reader.next(row)) reader.fail(1, "no rows");
  std::vector<Column> columns = columns_of(reader, row, header);
  for (bool first = true; (first && !header) || reader.next(row); first = false) {
    const std::size_t extra = columns.size() + 1;
    // Row names: see read_csv. An empty last field is a separator too many instead.
    if (first && header && row.fields.size() == extra && !row.fields.back().empty())
      columns.insert(columns.begin(), {.name = ""});
    if (row.fields.size() != columns.size())
      reader.fail(row.line, fmt::format("{} fields where {} are expected", row.fields.size(),
                                        columns.size()));
    for (std::size_t i = 0; i < columns.size(); ++i) columns[i].add(row.fields[i], row.line);
  }
  return columns;
}

// The positions of the named columns in a table; of all where there are no names.
std::vector<std::size_t> positions(const Table& table, const std::vector<std::string>& names) {
  std::vector<std::size_t> result;
  for (const std::string& name : names) {
    const auto found = std::find(table.columns.begin(), table.columns.end(), name);
    if (found == table.columns.end())
      fail("table", fmt::format("no numeric column '{}'", name),
           fmt::format("There are: {}", fmt::join(table.columns, ", ")));
    result.push_back(static_cast<std::size_t>(found - table.columns.begin()));
  }
  if (names.empty())
    for (std::size_t i = 0; i < table.columns.size(); ++i) result.push_back(i);
  return result;
}

// f(x, mean, deviation) for every element.
template <class F>
Tensor scaled(const char* op, const Scaler& scaler, const Tensor& x, F f) {
  const std::size_t columns = scaler.mean.size();
  if (x.rank() == 0 || x.size(-1) != static_cast<std::int64_t>(columns))
    fail_shape(op, fmt::format("{} for {} columns", to_string(x), columns));
  return with_float(op, x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Tensor result = Tensor::empty(x.shape(), x.dtype());
    const auto from = x.data<T>();
    const auto into = result.template mutable_data<T>();
    for (std::size_t i = 0; i < from.size(); ++i)
      into[i] = static_cast<T>(
          f(static_cast<double>(from[i]), scaler.mean[i % columns], scaler.deviation[i % columns]));
    return result;
  });
}

}  // namespace

Table parse_csv(std::string_view text, const CsvOptions& options, const std::string& name) {
  const char separator = options.separator != 0 ? options.separator : detect_separator(text);
  Reader reader(text, separator, name);
  std::vector<Column> columns = read_columns(reader, options.header);
  const auto wanted = [&](const std::string& column) {
    return options.columns.empty() || std::find(options.columns.begin(), options.columns.end(),
                                                column) != options.columns.end();
  };
  Table table;
  std::vector<std::string> numeric;
  for (Column& column : columns) {
    if (column.name.empty() || column.numbers == 0) {
      table.skipped.push_back(column.name);
      continue;
    }
    numeric.push_back(column.name);
    if (wanted(column.name)) {
      if (column.bad_line != 0)
        reader.fail(
            column.bad_line,
            fmt::format("'{}' in column '{}' is not a finite number", column.bad, column.name),
            "Repair the row, or give .columns without this one");
      table.columns.push_back(std::move(column.name));
      table.values.push_back(std::move(column.values));
    }
  }
  for (const std::string& column : options.columns)
    if (std::find(table.columns.begin(), table.columns.end(), column) == table.columns.end())
      fail_data("read_csv", fmt::format("'{}' has no numeric column '{}'", name, column),
                fmt::format("There are: {}", fmt::join(numeric, ", ")));
  if (table.columns.empty())
    fail_data("read_csv", fmt::format("'{}' has no column with numbers", name),
              fmt::format("The separator is taken to be '{}'; give .separator for another",
                          separator == '\t' ? "\\t" : std::string(1, separator)));
  return table;
}

Table read_csv(const std::filesystem::path& path, const CsvOptions& options) {
  return parse_csv(read_text(path), options, path.string());
}

const std::vector<double>& Table::column(std::string_view name) const {
  return values[positions(*this, {std::string(name)}).front()];
}

Tensor Table::tensor(const std::vector<std::string>& names, DType dtype) const {
  const std::vector<std::size_t> chosen = positions(*this, names);
  return with_float("table", dtype, [&](auto zero) {
    using T = decltype(zero);
    Tensor result = Tensor::empty({rows(), static_cast<std::int64_t>(chosen.size())}, dtype);
    T* into = result.template mutable_ptr<T>();
    for (std::size_t t = 0; t < static_cast<std::size_t>(rows()); ++t)
      for (std::size_t c : chosen) *into++ = static_cast<T>(values[c][t]);
    return result;
  });
}

Tensor Scaler::apply(const Tensor& x) const {
  return scaled("standardize", *this, x, [](double v, double m, double d) { return (v - m) / d; });
}

Tensor Scaler::undo(const Tensor& x) const {
  return scaled("standardize", *this, x, [](double v, double m, double d) { return v * d + m; });
}

std::pair<Tensor, Scaler> standardize(const Tensor& x, std::int64_t fit_rows) {
  if (x.rank() != 2 || fit_rows < 1 || fit_rows > x.size(0))
    fail_shape("standardize",
               fmt::format("{} rows of {} for the statistics", fit_rows, to_string(x)),
               "x is [T, C], and 1 to T rows are needed");
  const auto columns = static_cast<std::size_t>(x.size(1));
  const auto count = static_cast<double>(fit_rows);
  Scaler scaler{.mean = std::vector<double>(columns), .deviation = std::vector<double>(columns)};
  with_float("standardize", x.dtype(), [&](auto zero) {
    const auto values = x.data<decltype(zero)>();
    const std::size_t end = static_cast<std::size_t>(fit_rows) * columns;
    for (std::size_t i = 0; i < end; ++i) scaler.mean[i % columns] += values[i] / count;
    for (std::size_t i = 0; i < end; ++i) {
      const double distance = values[i] - scaler.mean[i % columns];
      scaler.deviation[i % columns] += distance * distance / count;
    }
  });
  for (std::size_t c = 0; c < columns; ++c) {
    const double deviation = std::sqrt(scaler.deviation[c]);
    // A constant column, but for the rounding of its mean.
    const bool constant = deviation <= 1e-12 * std::abs(scaler.mean[c]);
    scaler.deviation[c] = constant ? 1 : deviation;
  }
  return {scaler.apply(x), scaler};
}

}  // namespace unroll
