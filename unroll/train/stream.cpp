#include <fmt/format.h>
#include <unroll/graph/bytes.h>
#include <unroll/graph/program.h>
#include <unroll/graph/tape.h>
#include <unroll/train/stream.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <set>

namespace unroll {
namespace {

void copy(const Tensor& from, Tensor to) { std::memcpy(to.bytes(), from.bytes(), bytes_of(from)); }
void clear(Tensor to) { std::memset(to.bytes(), 0, bytes_of(to)); }

StepForm form_of(const RecurrentCell& cell, DType dtype) {
  return {.step = [&cell](const Tensor& x, const Tensor&,
                          const State& state) { return cell(x, state); },
          .initial_state =
              [&cell, dtype](std::int64_t batch) { return cell.initial_state(batch, dtype); }};
}

}  // namespace

StateDict StreamState::to_dict() const {
  StateDict dict{{"position", Tensor::from({position}, {1})}};
  for (std::size_t k = 0; k < state.size(); ++k) dict[fmt::format("state.{}", k)] = state[k];
  return dict;
}

StreamState StreamState::from_dict(const StateDict& dict) {
  StreamState result;
  const auto place = dict.find("position");
  if (place == dict.end() || place->second.dtype() != DType::i64 || place->second.numel() != 1)
    fail("StreamState", "there is no position (i64 [1])", "Give it what to_dict() gave");
  result.position = place->second.data<std::int64_t>()[0];
  for (std::size_t k = 0; k + 1 < dict.size(); ++k) {
    const auto one = dict.find(fmt::format("state.{}", k));
    if (one == dict.end())
      fail("StreamState", fmt::format("there is no state.{} among {} names", k, dict.size()),
           "Give it what to_dict() gave");
    result.state.push_back(one->second);
  }
  return result;
}

struct Stream::Impl {
  struct Batch {
    Program program;
    Tensor x, position;  // what it reads: x for streams fewer than it has rows
  };
  struct Member {
    std::int64_t position = 0;
    State rows = {};        // where it stands while it is not among the residents
    std::int64_t row = -1;  // of the current batch
  };

  explicit Impl(StepForm f);

  Tensor step(std::span<const std::int64_t> ids, const Tensor& x);
  Tensor run(std::span<const std::int64_t> ids, const Tensor& x);
  void check_ids(std::span<const std::int64_t> ids, const Tensor& x) const;
  void check_input(std::span<const std::int64_t> ids, const Tensor& x) const;
  void check_context(std::int64_t id, std::int64_t position) const;
  Batch& batch_for(std::size_t ids, const Tensor& x);
  Batch make_batch(std::int64_t size, const Tensor& x) const;
  void make_resident(std::span<const std::int64_t> ids, Batch& batch);
  void send_home();
  void forget(std::span<const std::int64_t> ids) noexcept;
  StreamState state(std::int64_t id) const;
  void restore(const StreamState& state, std::int64_t id);
  void reset(std::int64_t id);
  void leave(std::int64_t id);

  State empty_rows() const {
    State rows;
    for (const Tensor& spec : specs) rows.push_back(Tensor::empty(spec.shape(), spec.dtype()));
    return rows;
  }
  // State k of the stream in a row of the current batch.
  Tensor row(std::size_t k, std::int64_t row) const { return current->program.carried(k).row(row); }

  StepForm form;
  State specs;  // of one stream
  std::map<std::int64_t, Member> members;
  std::vector<State> spare;               // of members that left
  std::map<std::int64_t, Batch> batches;  // by size
  Batch* current = nullptr;
  std::vector<std::int64_t> residents;  // the streams of current, by row
  std::vector<Member*> resident_members;
  std::vector<std::int64_t> first;  // 0, 1, ...
};

Stream::Impl::Impl(StepForm f) : form(std::move(f)) {
  if (!form.step || !form.initial_state)
    fail("Stream", "a step form without a function", "It needs step and initial_state");
  for (const Tensor& one : form.initial_state(1)) {
    if (one.rank() < 1 || one.size(0) != 1)
      fail_shape("Stream", fmt::format("a state {} for one stream", to_string(one)),
                 "The axis of streams leads");
    specs.push_back(Tensor::abstract(one.shape().without(0), one.dtype()));
  }
}

Stream::Stream(StepForm form) : impl_(std::make_unique<Impl>(std::move(form))) {}
Stream::Stream(SequenceModel& model, const StreamOptions& options)
    : Stream(model.step_form(options)) {}
Stream::Stream(const RecurrentLayer& layer) : Stream(layer.step_form()) {}
Stream::Stream(const RecurrentCell& cell, DType dtype) : Stream(form_of(cell, dtype)) {}
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;

Stream::Impl& Stream::impl() const {
  if (impl_ == nullptr) fail("Stream", "it was moved from", "Use the one that it was moved to");
  return *impl_;
}

Tensor Stream::step(const Tensor& x) {
  std::vector<std::int64_t>& first = impl().first;
  const std::int64_t count = x.rank() > 0 ? x.size(0) : 0;
  while (static_cast<std::int64_t>(first.size()) < count)
    first.push_back(static_cast<std::int64_t>(first.size()));
  return step(std::span(first).first(static_cast<std::size_t>(count)), x);
}

Tensor Stream::step(std::span<const std::int64_t> ids, const Tensor& x) {
  return impl().step(ids, x);
}
StreamState Stream::state(std::int64_t id) const { return impl().state(id); }
void Stream::restore(const StreamState& state, std::int64_t id) { impl().restore(state, id); }
void Stream::reset(std::int64_t id) { impl().reset(id); }
void Stream::leave(std::int64_t id) { impl().leave(id); }

Tensor Stream::Impl::step(std::span<const std::int64_t> ids, const Tensor& x) {
  const bool resident = !ids.empty() && std::ranges::equal(ids, residents);
  if (!resident) check_ids(ids, x);
  check_input(ids, x);
  // All that can be known to fail comes before anything moves.
  if (resident) {
    for (std::size_t i = 0; i < ids.size(); ++i)
      check_context(ids[i], resident_members[i]->position);
    return run(ids, x);
  }
  std::vector<std::int64_t> newcomers;
  for (const std::int64_t id : ids) {
    const auto found = members.find(id);
    check_context(id, found == members.end() ? 0 : found->second.position);
    if (found == members.end()) newcomers.push_back(id);
  }
  Batch& batch = batch_for(ids.size(), x);
  try {
    make_resident(ids, batch);
    return run(ids, x);
  } catch (...) {
    forget(newcomers);
    throw;
  }
}

// The streams are the residents.
Tensor Stream::Impl::run(std::span<const std::int64_t> ids, const Tensor& x) {
  std::int64_t* const position = current->position.mutable_ptr<std::int64_t>();
  for (std::size_t i = 0; i < ids.size(); ++i) position[i] = resident_members[i]->position;
  const Tensor* input = &x;
  const auto count = static_cast<std::int64_t>(ids.size());
  const std::int64_t rows = current->position.size(0);
  if (count < rows) {
    copy(x, current->x);
    input = &current->x;
  }
  const Tensor& y = current->program({*input, current->position})[0];
  for (Member* one : resident_members) ++one->position;
  return count < rows ? y.rows(0, count) : y;
}

void Stream::Impl::check_ids(std::span<const std::int64_t> ids, const Tensor& x) const {
  if (ids.empty()) fail("Stream", "no stream to step");
  if (x.rank() < 1 || x.size(0) != static_cast<std::int64_t>(ids.size()))
    fail_shape("Stream", fmt::format("the input is {} for {} streams", to_string(x), ids.size()),
               "One step has a row for each: tokens [B] or features [B, F]");
  const std::set<std::int64_t> once(ids.begin(), ids.end());
  if (once.size() != ids.size()) fail("Stream", "a stream is named twice in one step");
}

// Every batch takes what the first one took, but for the number of rows.
void Stream::Impl::check_input(std::span<const std::int64_t> ids, const Tensor& x) const {
  if (!x.defined() || x.is_abstract())
    fail("Stream", fmt::format("the input is {}", to_string(x)), "A step needs data");
  if (batches.empty()) return;
  const Tensor& known = batches.begin()->second.x;
  const auto count = static_cast<std::int64_t>(ids.size());
  if (x.rank() != known.rank() || x.shape() != known.shape().with(0, count) ||
      x.dtype() != known.dtype())
    fail_shape("Stream",
               fmt::format("the input is {}, expected {} for {} streams", to_string(x),
                           to_string(Tensor::abstract(known.shape().with(0, count), known.dtype())),
                           count));
}

void Stream::Impl::check_context(std::int64_t id, std::int64_t position) const {
  if (form.longest > 0 && position >= form.longest)
    fail(
        "Stream",
        fmt::format("stream {} is at the end of the model's context of {} steps", id, form.longest),
        "Reset it, or take a model with rotary or sinusoidal positions");
}

Stream::Impl::Batch& Stream::Impl::batch_for(std::size_t ids, const Tensor& x) {
  const auto size = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(ids)));
  const auto found = batches.find(size);
  if (found != batches.end()) return found->second;
  return batches.emplace(size, make_batch(size, x)).first->second;
}

// Rows of these streams into one batch, those of others home.
void Stream::Impl::make_resident(std::span<const std::int64_t> ids, Batch& batch) {
  std::vector<std::int64_t> names(ids.begin(), ids.end());
  std::vector<Member*> all;
  for (const std::int64_t id : ids) all.push_back(&members[id]);
  send_home();
  current = &batch;
  residents = std::move(names);
  resident_members = std::move(all);
  std::memset(current->position.bytes(), 0, bytes_of(current->position));
  const auto count = static_cast<std::int64_t>(ids.size());
  for (std::int64_t i = 0; i < count; ++i) {
    Member& one = *resident_members[static_cast<std::size_t>(i)];
    one.row = i;
    for (std::size_t k = 0; k < specs.size(); ++k)
      one.rows.empty() ? clear(row(k, i)) : copy(one.rows[k], row(k, i));
  }
  for (std::int64_t idle = count; idle < current->position.size(0); ++idle)
    for (std::size_t k = 0; k < specs.size(); ++k) clear(row(k, idle));
}

void Stream::Impl::send_home() {
  for (Member* one : resident_members) {  // what can fail
    if (!one->rows.empty()) continue;
    if (spare.empty()) {
      one->rows = empty_rows();
    } else {
      one->rows = std::move(spare.back());
      spare.pop_back();
    }
  }
  for (Member* one : resident_members) {
    for (std::size_t k = 0; k < specs.size(); ++k) copy(row(k, one->row), one->rows[k]);
    one->row = -1;
  }
  resident_members.clear();
  residents.clear();
  current = nullptr;
}

// Those that joined for a step that failed. Other residents stay where they are, to be sent home by
// the next step.
void Stream::Impl::forget(std::span<const std::int64_t> ids) noexcept {
  for (const std::int64_t id : ids) {
    const auto found = members.find(id);
    if (found == members.end()) continue;
    std::erase(resident_members, &found->second);
    members.erase(found);
  }
  if (!ids.empty()) residents.clear();
}

Stream::Impl::Batch Stream::Impl::make_batch(std::int64_t size, const Tensor& x) const {
  const NoGrad unrecorded;
  std::vector<Tensor> examples{Tensor::abstract(x.shape().with(0, size), x.dtype()),
                               Tensor::abstract({size}, DType::i64)};
  for (const Tensor& one : specs)
    examples.push_back(Tensor::abstract(one.shape().inserted(0, size), one.dtype()));
  const auto f = [&](std::span<const Tensor> in) {
    Output next = form.step(in[0], in[1], State(in.begin() + 2, in.end()));
    std::vector<Tensor> out{std::move(next.output)};
    for (Tensor& one : next.state) out.push_back(std::move(one));
    return out;
  };
  Program program = [&] {
    try {
      return trace(f, examples, {.keep_weights = true, .carried = specs.size()});
    } catch (const ShapeError& error) {
      fail_shape("Stream",
                 fmt::format("the model does not take a step {}: {}", to_string(x), error.what()));
    }
  }();
  if (program.draws()) fail_stream_draws("Stream");
  return {std::move(program), Tensor::zeros(x.shape().with(0, size), x.dtype()),
          Tensor::zeros({size}, DType::i64)};
}

StreamState Stream::Impl::state(std::int64_t id) const {
  StreamState result;
  const auto found = members.find(id);
  if (found != members.end()) result.position = found->second.position;
  for (std::size_t k = 0; k < specs.size(); ++k) {
    if (found != members.end() && found->second.row >= 0) {
      result.state.push_back(row(k, found->second.row).clone());
    } else if (found != members.end() && !found->second.rows.empty()) {
      result.state.push_back(found->second.rows[k].clone());
    } else {
      result.state.push_back(Tensor::zeros(specs[k].shape(), specs[k].dtype()));
    }
  }
  return result;
}

void Stream::Impl::restore(const StreamState& state, std::int64_t id) {
  if (state.state.size() != specs.size() || state.position < 0)
    fail("Stream", fmt::format("a state of {} tensors at position {}, expected {} tensors",
                               state.state.size(), state.position, specs.size()));
  for (std::size_t k = 0; k < specs.size(); ++k)
    if (!state.state[k].defined() || state.state[k].is_abstract() ||
        state.state[k].shape() != specs[k].shape() || state.state[k].dtype() != specs[k].dtype())
      fail_shape("Stream", fmt::format("state {} is {}, expected {}", k, to_string(state.state[k]),
                                       to_string(specs[k])));
  State rows;  // what can fail comes first
  for (const Tensor& given : state.state) rows.push_back(given.clone());
  Member& one = members[id];
  one.position = state.position;
  if (one.row < 0) {
    one.rows = std::move(rows);
  } else {
    for (std::size_t k = 0; k < specs.size(); ++k) copy(rows[k], row(k, one.row));
  }
}

void Stream::Impl::reset(std::int64_t id) {
  Member& one = members[id];
  one.position = 0;
  for (std::size_t k = 0; k < specs.size(); ++k) {
    if (one.row >= 0) {
      clear(row(k, one.row));
    } else if (!one.rows.empty()) {
      clear(one.rows[k]);
    }
  }
}

void Stream::Impl::leave(std::int64_t id) {
  const auto found = members.find(id);
  if (found == members.end()) return;
  if (found->second.row >= 0) send_home();
  if (!found->second.rows.empty()) spare.push_back(std::move(found->second.rows));
  members.erase(found);
}

std::int64_t Stream::position(std::int64_t id) const {
  const auto& members = impl().members;
  const auto found = members.find(id);
  return found == members.end() ? 0 : found->second.position;
}

std::vector<std::int64_t> Stream::ids() const {
  std::vector<std::int64_t> all;
  for (const auto& [id, member] : impl().members) all.push_back(id);
  return all;
}

std::int64_t Stream::state_bytes() const {
  std::int64_t bytes = 0;
  for (const Tensor& one : impl().specs) bytes += static_cast<std::int64_t>(bytes_of(one));
  return bytes;
}

}  // namespace unroll
