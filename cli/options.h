#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <string>

namespace unroll::cli {

// Checks of options. CLI11's own let NaN pass, cut numbers beyond 64 bits down to what fits, and
// print bounds in 300 digits.

/// A whole number from low to high.
CLI::Validator whole(std::int64_t low,
                     std::int64_t high = std::numeric_limits<std::int64_t>::max());
/// A finite number above 0, up to high.
CLI::Validator positive(double high = std::numeric_limits<double>::max());
/// A finite number from low to high.
CLI::Validator real(double low, double high = std::numeric_limits<double>::max());

/// Refuses options that were given and would do nothing: `applies` says whether they do something,
/// `where` what it is that has no use for them, as "for a gru". Throws Error that names the option.
void only_if(bool applies, const CLI::App& command, std::initializer_list<const char*> options,
             const std::string& where);

/// Steps of a warm-up: those that were given as --warmup, or the usual ones but half of a short run
/// at the most. Throws Error for one as long as the run.
std::int64_t warmup_steps(const CLI::App& command, std::int64_t warmup, std::int64_t steps);

/// The largest size of a layer that is believed.
inline constexpr std::int64_t most_units = 1 << 24;

/// Tells that a text is not the one that a run began with: FNV-1a.
std::string fingerprint(const std::string& text);

/// Writes the page whole or not at all, and tells where it is.
void write_page(const std::filesystem::path& file, const std::string& page);

/// A folder to write into: made where it is missing, and tried before the work starts whose result
/// it is for. One that is made and stays empty, since that work failed, is removed again.
class OutputFolder {
 public:
  /// Throws Error where no file can be written there.
  explicit OutputFolder(std::filesystem::path path);
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder() { remove_if_empty(); }

  const std::filesystem::path& path() const { return path_; }

 private:
  void remove_if_empty() const;

  std::filesystem::path path_;
  std::filesystem::path above_;  // what was there already
};

}  // namespace unroll::cli
