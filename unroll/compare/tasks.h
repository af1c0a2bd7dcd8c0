#pragma once

#include <unroll/train/trainer.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unroll {

/// What a predictor reaches that has not learned what a task asks for; exact, and held to by a
/// simulation in the tests.
struct TaskBaseline {
  double score = 0;  ///< in the task's own measure
  double loss = 0;   ///< in the unit of training
};

/// A task with exact answers whose difficulty grows with a length: batches are drawn without end,
/// so that nothing can be learned by heart.
struct LongRangeTask {
  const char* name;
  const char* summary;  ///< what is read and what is asked
  const char* source;
  const char* length_counts;  ///< what the length counts: "steps", "pairs"
  const char* knows_not;      ///< the baseline's predictor in words
  std::int64_t vocabulary;    ///< symbols; 0: `features` real inputs, and a real answer
  std::int64_t features;
  std::int64_t outputs;
  std::int64_t shortest;     ///< a training batch has one length from here to the trained one
  std::int64_t length;       ///< the trained length, where none is asked for
  std::int64_t longest;      ///< there is no batch beyond this length
  bool last_answer = false;  ///< every step is asked for in training, the last one is scored
  /// x [T, B] i64 and y [T, B] i64, which is -100 where nothing is asked; of a task with real
  /// answers x [T, B, features] and y [B, 1], asked at the last step.
  Batch (*draw)(std::int64_t length, std::int64_t batch, Generator& generator);
  TaskBaseline (*baseline)(std::int64_t length);

  bool real() const { return vocabulary == 0; }
};

/// adding, copy, selective-copy, parity, recall, induction.
std::span<const LongRangeTask> long_range_tasks();
/// Throws Error for an unknown name, listing the known ones.
const LongRangeTask& long_range_task(std::string_view name);

/// A batch of this length. Throws Error where the task has none.
Batch draw_task(const LongRangeTask& task, std::int64_t length, std::int64_t batch,
                Generator& generator);

/// For train(): batches of lengths up to `length`, their loss, and the loss at `length` itself on
/// fixed sequences as evaluation.
TrainTask train_task(const LongRangeTask& task, std::int64_t length, std::int64_t batch,
                     int evaluation_batches);

struct TaskScore {
  std::int64_t length = 0;
  double score = 0;  ///< share of right answers; of real answers the mean squared error
  double exact = 0;  ///< share of sequences with every answer right (real ones: within 0.04)
  double loss = 0;
};

/// Of a model in evaluation mode on `batches` batches of fresh sequences.
TaskScore score_task(SequenceModel& model, const LongRangeTask& task, std::int64_t length,
                     int batches, std::int64_t batch, Generator& generator);

}  // namespace unroll
