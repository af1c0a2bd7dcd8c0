#pragma once

#include <unroll/graph/threads.h>
#include <unroll/ops/scan_run.h>

#include <optional>

namespace unroll::detail {

/// The runs of a group's members, forward or back. Kept by a record that a Program runs again and
/// again, they stay bound from one time to the next; else each lasts until its end().
template <class Run>
class ScanRuns {
 public:
  explicit ScanRuns(bool kept) : kept_(kept) {}

  /// How the members are about to run. What was bound for another way is dropped.
  void prepare(std::size_t members, bool side_by_side, std::int64_t chunk) {
    const Way way{threads(), side_by_side, chunk};
    if (runs_.size() == members && way == way_) return;
    runs_ = CachedVector<std::optional<Run>>(members);
    way_ = way;
  }
  /// Member i's run on these operands, which outlive it, ready for its first advance().
  Run& begin(std::size_t i, const ScanPlan& plan, Args in, bool flag) {
    std::optional<Run>& run = runs_[i];
    if (run) {
      run->restart(in);
    } else {
      run.emplace(plan, in, way_.chunk, flag);
    }
    return *run;
  }
  /// Its results have been taken.
  void end(std::size_t i) { kept_ ? runs_[i]->release() : runs_[i].reset(); }
  Run& operator[](std::size_t i) { return *runs_[i]; }
  /// Behind a failure: nothing of it is used again.
  void clear() { runs_.clear(); }

 private:
  struct Way {
    int threads = 0;
    bool side_by_side = false;
    std::int64_t chunk = 0;
    friend bool operator==(const Way&, const Way&) = default;
  };

  bool kept_;
  Way way_;
  CachedVector<std::optional<Run>> runs_;
};

}  // namespace unroll::detail
