#pragma once

#include <unroll/train/sequence_model.h>

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace unroll {

struct CompareOptions {
  std::filesystem::path text;    ///< UTF-8; empty with `series` empty: the GPL-3 of this machine
  std::filesystem::path series;  ///< CSV; forecasts `target` one step ahead
  std::string target;            ///< a column of the series
  std::vector<std::string> models = {"rnn", "lstm", "gru", "transformer"};
  std::int64_t parameters = 200'000;
  std::int64_t steps = 0;  ///< training steps of each model; 0: 600, or 60 where `quick`
  double seconds = 0;      ///< training time of each model in place of steps
  int seeds = 1;
  int threads = 1;
  bool quick = false;  ///< everything in under a minute
};

/// Trains every model on the same batches and runs the probes. The result is what results.json
/// holds (docs/results.md). Progress goes to stderr where it is a terminal.
/// Throws Error or DataError for input that cannot be used, before any training.
nlohmann::json compare(const CompareOptions& options);

/// The tables for a terminal.
std::string tables(const nlohmann::json& results);

/// A page that needs nothing else: plots and tables of `results`, whose every number comes from
/// there. Throws DataError where it is not a results file of this version.
std::string report(const nlohmann::json& results);

/// Throws DataError where `results` lacks what docs/results.md promises.
void check_results(const nlohmann::json& results);

}  // namespace unroll
