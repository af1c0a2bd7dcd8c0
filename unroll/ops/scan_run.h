#pragma once

#include <unroll/ops/scan_loop.h>
#include <unroll/ops/scan_plan.h>

namespace unroll::detail {

/// One run of a plan, forward or back: its working tensors and its bound calls. It goes by chunks
/// of steps: what treats rows one by one is computed for a chunk's rows together, ahead of its loop
/// and behind it, while they are in the cache. What nobody reads beyond its chunk has a chunk's
/// memory. A run that is over can be run again on other inputs of the same shapes: its calls stay
/// bound, weights are laid out anew.
class ScanRun {
 public:
  ScanRun(const ScanRun&) = delete;
  ScanRun& operator=(const ScanRun&) = delete;

  /// How many chunks there are.
  std::int64_t chunks() const { return (steps_ + chunk_ - 1) / chunk_; }
  /// Runs the next one.
  void advance();

 protected:
  using Place = ScanPlan::Place;
  static constexpr std::uint32_t none = ScanPlan::none;
  using Flags = CachedVector<char>;  // by value of the trace

  // What is carried from step to step: the value that a step reads and the one that it gives.
  struct Track {
    std::uint32_t in, out;
    bool whole;   // all steps' rows are kept, else two that take turns
    bool direct;  // the step's own result lies in it, else it is copied there
    Tensor rows;
  };
  // A stack that the run has made: of its own memory, or of that of another value's.
  struct Made {
    std::uint32_t value, over;
  };

  /// in: xs [T, B, ...], mask if masked, states, captures; more may follow.
  ScanRun(const ScanPlan& plan, Args in, bool ascending, std::int64_t chunk);
  ~ScanRun() = default;

  /// The inputs of this run.
  void take(Args in);
  /// Lets go of what it was given, has given and made, but for what a step needs.
  void release();
  /// All memory is there: the next advance() is the first. `again`: the calls are those of an
  /// earlier run.
  void begin(bool again);

  bool in_loop(std::uint32_t value) const;
  // Is it computed for a chunk's rows together, by a node from `begin` on?
  bool together(std::uint32_t value, std::size_t begin) const;
  Tensor empty_like(std::uint32_t value) const;

  void run_once(std::size_t begin, std::size_t end);
  void run_whole(std::size_t node);

  void carry(std::uint32_t in, std::uint32_t out, const Tensor& initial, bool whole);
  // Memory for what is carried, `initial` in it.
  void lay(Track& track, const Tensor& initial) const;
  Tensor track_before(const Track& track) const;
  Tensor track_after(const Track& track) const;
  // The row that was carried out of the steps done so far.
  Tensor carried_row(const Track& track) const;

  // Memory for a value's rows: of all steps, or of one chunk.
  void make_stack(std::uint32_t value, bool whole);
  // Memory for all stacks that an earlier run made.
  void make_stacks_again();
  Tensor empty_stack(std::uint32_t value) const;
  // For what nodes of `place` give, whole where flagged so; what a loop result with a stack can be
  // computed over gets that one.
  void make_stacks(Place place, std::size_t begin, std::size_t end, const Flags& whole);
  CachedVector<int> reader_counts(std::size_t begin, std::size_t end) const;
  // By value: the loop result that is computed over it, or none.
  CachedVector<std::uint32_t> in_place_results(std::size_t begin, std::size_t end) const;

  void bind(std::size_t begin, std::size_t end, std::span<Tensor> sums);
  Cursor over(std::uint32_t value) const;
  Cursor cursor_of(std::uint32_t value);
  Cursor carried_cursor(const Track& track, bool before) const;
  // Of the memory that a cursor lies in.
  std::size_t base_of_stack(std::uint32_t value) const { return value; }
  std::size_t base_of_now(std::uint32_t value) const { return now_.size() + value; }
  std::size_t base_of_track(const Track& track) const {
    return 2 * now_.size() + static_cast<std::size_t>(&track - tracks_.data());
  }

  const ScanPlan& plan_;
  const Tape& tape_;
  Args in_;
  std::int64_t steps_, chunk_, done_ = 0;
  bool ascending_;
  CachedVector<Tensor> now_;    // by value: the current step's, or the same for all
  CachedVector<Tensor> stack_;  // by value: all steps' [T, ...], or a chunk's
  Flags of_chunk_;              // by value: the stack is a chunk's
  CachedVector<Made> made_;     // in this order
  CachedVector<Track> tracks_;
  bool copied_output_ = false;
  std::size_t first_state_ = 0, after_inputs_ = 0;

 private:
  // Calls on the rows of whole chunks, and of the last one if it is shorter.
  struct Together {
    explicit Together(Arena& arena) : full(arena), rest(arena) {}
    ScanLoop full, rest;
  };

  Cursor rows_cursor(std::uint32_t value, std::int64_t count) const;
  bool is_fixed(std::uint32_t value) const;
  void add_step(const Node& node);
  void add_together(ScanLoop& calls, const Node& node, std::int64_t count);
  Cursor output_cursor();

  Arena arena_;
  Together ahead_{arena_}, behind_{arena_};
  ScanLoop loop_{arena_};
  CachedVector<Tensor> zeros_;
  CachedVector<std::uint32_t> temporaries_;  // values of a step whose memory stays
  CachedVector<std::byte*> bases_;
};

/// Forward. The results are output [T, ...], the last states and, if kept, what the way back reads:
/// tracks of states [T + 1, ...] and stacks of other values [T, ...].
class ScanForward : public ScanRun {
 public:
  ScanForward(const ScanPlan& plan, Args in, std::int64_t chunk, bool keep);
  /// Behind release(): makes it ready for another run.
  void restart(Args in);
  void release();

  /// Where the outputs lie, from the beginning on.
  const Tensor& output() const { return output_; }
  /// State k behind the chunks run so far; overwritten by the next.
  Tensor state(std::size_t k) const { return carried_row(tracks_[k]); }
  void finish(std::span<Tensor> out) const;

 private:
  void make_output(const Flags& whole);
  void find_output();

  bool keep_;
  int output_track_ = -1;  // the state whose track holds the outputs too
  Tensor output_;
};

/// Back. Behind forward's inputs come tracks and stacks as it kept them, then the gradients of
/// output and last states. The results are the gradients of xs, states and captures; undefined
/// where nothing depends on one. With `overwrite` gradients may be written over stacks that nobody
/// else refers to.
class ScanBackward : public ScanRun {
 public:
  ScanBackward(const ScanPlan& plan, Args in, std::int64_t chunk, bool overwrite);
  /// Behind release(): makes it ready for another run, without overwriting.
  void restart(Args in);
  void release();

  /// Where the gradient of xs lies, from the beginning on; undefined where there is none.
  const Tensor& input_gradient() const { return input_gradient_; }
  void finish(std::span<Tensor> out);

 private:
  void take_forward_values(bool overwrite);
  Flags whole_values() const;
  std::uint32_t overwritten_by(std::uint32_t value, const CachedVector<int>& readers) const;
  void make_loop_stacks(Flags& kept, const Flags& whole);
  CachedVector<std::size_t> captures_summed_in_loop() const;
  const Tensor& state_gradient(std::size_t k) const { return in_[in_.size() - plan_.states() + k]; }
  void make_sums();
  void find_input_gradient();

  CachedVector<Tensor> sums_;  // by capture
  CachedVector<std::size_t> summed_in_loop_;
  Flags stacked_;  // by value: a seed whose track is its stack
  Flags ours_;     // by value: its stack may be overwritten
  Tensor input_gradient_;
};

/// How many steps make a chunk, where a step has `batch` rows.
std::int64_t scan_chunk(std::int64_t steps, std::int64_t batch);

}  // namespace unroll::detail
