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
  std::string task;              ///< one of long_range_tasks() in place of data
  std::int64_t length = 0;       ///< that the task is trained up to; 0: the task's own
  /// Trains on the text as a stream, once for every k2: how many steps back gradients reach.
  std::vector<std::int64_t> k2 = {};
  std::vector<std::string> models = {"rnn", "lstm", "gru", "transformer"};
  std::int64_t parameters = 0;  ///< of each model; 0: 200'000, or 20'000 for a task
  std::int64_t steps = 0;  ///< training steps of each model; 0: 600, or 2000 for a task; a tenth
                           ///< where `quick`
  double seconds = 0;      ///< training time of each model in place of steps
  int seeds = 1;
  int threads = 1;
  bool quick = false;  ///< everything in under a minute
};

/// Trains every model on the same batches and runs the probes; with a task or k2, their own ones
/// alone. The result is what results.json holds (docs/results.md). Progress goes to stderr where it
/// is a terminal. Throws Error or DataError for input that cannot be used, before any training.
nlohmann::json compare(const CompareOptions& options);

/// The tables for a terminal.
std::string tables(const nlohmann::json& results);

/// A page that needs nothing else: plots and tables of `results`, whose every number comes from
/// there. Throws DataError where it is not a results file of this version.
std::string report(const nlohmann::json& results);

/// Throws DataError where `results` lacks what docs/results.md promises.
void check_results(const nlohmann::json& results);

}  // namespace unroll
