#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace unroll {

struct CsvOptions {
  char separator = 0;  ///< 0: comma, semicolon or tab, whichever the first row has most of
  bool header = true;  ///< the first row holds names; without, columns are named "0", "1", ..
  std::vector<std::string> columns{};  ///< only these; empty: all that are numeric
};

/// The numeric columns of a table.
struct Table {
  std::vector<std::string> columns;
  std::vector<std::vector<double>> values;  ///< values[c][t]: column c, row t
  std::vector<std::string> skipped;         ///< columns without numbers, such as dates

  std::int64_t rows() const {
    return values.empty() ? 0 : static_cast<std::int64_t>(values.front().size());
  }
  /// Throws Error, naming those there are, for one that is not there.
  const std::vector<double>& column(std::string_view name) const;
  /// [T, C] of the named columns, in that order; of all without names. f32 or f64.
  Tensor tensor(const std::vector<std::string>& names = {}, DType dtype = DType::f32) const;
};

/// Reads comma-, semicolon- or tab-separated UTF-8 text (RFC 4180: fields may be quoted, quotes in
/// them doubled, lines end with LF or CRLF). A column in which no field is a number is skipped,
/// and so is one without a name. Where every row has one field more than the header, as R writes
/// its row names, the first field is skipped likewise.
///
/// Throws DataError, with the line and the column, for rows of different lengths and for a field
/// that is empty, not a number, or not finite in a column that has numbers; a file with gaps has to
/// be repaired by somebody who knows what they mean.
Table read_csv(const std::filesystem::path& path, const CsvOptions& options = {});
/// The same from memory. `name` stands for the file in error messages.
Table parse_csv(std::string_view text, const CsvOptions& options = {},
                const std::string& name = "memory");

/// How columns were shifted and scaled.
struct Scaler {
  std::vector<double> mean;
  std::vector<double> deviation;

  /// (x - mean) / deviation, for x [..., C]. Throws ShapeError for another C.
  Tensor apply(const Tensor& x) const;
  /// x * deviation + mean: back to the original units.
  Tensor undo(const Tensor& x) const;
};

/// x [T, C] with every column shifted and scaled to mean 0 and deviation 1, by the statistics
/// of rows 0 to fit_rows - 1 alone: those of the later rows are not known when a model is trained.
/// The deviation is the population's (divided by fit_rows), and 1 for a constant column. Throws
/// ShapeError for fit_rows outside 1 to T.
std::pair<Tensor, Scaler> standardize(const Tensor& x, std::int64_t fit_rows);

}  // namespace unroll
