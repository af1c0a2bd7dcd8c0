#pragma once

#include <unroll/graph/clock.h>

#include <cstdint>
#include <string>

namespace unroll {

/// A line on the terminal with a bar, the share done and the time left; quiet where stderr is none.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` in [0, 1]; `note` stands behind the bar. Redraws at most ten times a second.
  void update(double done, const std::string& note = {});
  /// "1:05", "0:07"
  static std::string duration(double seconds);

 private:
  std::string label_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_, last_;
};

}  // namespace unroll
