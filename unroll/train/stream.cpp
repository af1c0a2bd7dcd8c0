#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/train/stream.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

namespace unroll {
namespace {

std::size_t bytes_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel() * size_of(tensor.dtype()));
}

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

Stream::Stream(StepForm form) : form_(std::move(form)) {
  for (const Tensor& one : form_.initial_state(1)) {
    if (one.rank() < 1 || one.size(0) != 1)
      fail_shape("Stream", fmt::format("a state {} for one stream", to_string(one)),
                 "The axis of streams leads");
    specs_.push_back(Tensor::abstract(one.shape().without(0), one.dtype()));
  }
}
Stream::Stream(SequenceModel& model, const StreamOptions& options)
    : Stream(model.step_form(options)) {}
Stream::Stream(const RecurrentLayer& layer) : Stream(layer.step_form()) {}
Stream::Stream(const RecurrentCell& cell, DType dtype) : Stream(form_of(cell, dtype)) {}
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;

Tensor Stream::step(const Tensor& x) {
  const std::int64_t count = x.rank() > 0 ? x.size(0) : 0;
  while (static_cast<std::int64_t>(first_.size()) < count)
    first_.push_back(static_cast<std::int64_t>(first_.size()));
  return step(std::span(first_).first(static_cast<std::size_t>(count)), x);
}

Tensor Stream::step(std::span<const std::int64_t> ids, const Tensor& x) {
  if (current_ == nullptr || !std::ranges::equal(ids, residents_)) make_resident(ids, x);
  std::int64_t* const position = current_->position.mutable_ptr<std::int64_t>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    position[i] = resident_members_[i]->position;
    if (form_.longest > 0 && position[i] >= form_.longest)
      fail("Stream",
           fmt::format("stream {} is at the end of the model's context of {} steps", ids[i],
                       form_.longest),
           "Reset it, or take a model with rotary or sinusoidal positions");
  }
  const Tensor* input = &x;
  const auto count = static_cast<std::int64_t>(ids.size());
  const std::int64_t rows = current_->position.size(0);
  if (count < rows) {
    Tensor& all = current_->x;
    if (x.rank() != all.rank() || x.shape() != all.shape().with(0, count) ||
        x.dtype() != all.dtype())
      fail_shape("Stream",
                 fmt::format("the input is {}, expected {}", to_string(x),
                             to_string(Tensor::abstract(all.shape().with(0, count), all.dtype()))));
    copy(x, all);
    input = &all;
  }
  const Tensor& y = current_->program({*input, current_->position})[0];
  for (Member* one : resident_members_) ++one->position;
  return count < rows ? y.rows(0, count) : y;
}

void Stream::check_ids(std::span<const std::int64_t> ids, const Tensor& x) const {
  if (ids.empty()) fail("Stream", "no stream to step");
  if (x.rank() < 1 || x.size(0) != static_cast<std::int64_t>(ids.size()))
    fail_shape("Stream", fmt::format("the input is {} for {} streams", to_string(x), ids.size()),
               "One step has a row for each: tokens [B] or features [B, F]");
  const std::set<std::int64_t> once(ids.begin(), ids.end());
  if (once.size() != ids.size()) fail("Stream", "a stream is named twice in one step");
}

// Rows of these streams into one batch, those of others home.
void Stream::make_resident(std::span<const std::int64_t> ids, const Tensor& x) {
  check_ids(ids, x);
  const auto size =
      static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(ids.size())));
  auto batch = batches_.find(size);
  if (batch == batches_.end()) batch = batches_.emplace(size, make_batch(size, x)).first;
  send_home();
  current_ = &batch->second;
  const std::size_t count = specs_.size();
  std::memset(current_->position.bytes(), 0, bytes_of(current_->position));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    Member& one = joined(ids[i]);
    one.row = static_cast<std::int64_t>(i);
    residents_.push_back(ids[i]);
    resident_members_.push_back(&one);
    for (std::size_t k = 0; k < count; ++k)
      one.rows.empty() ? clear(row(k, one.row)) : copy(one.rows[k], row(k, one.row));
  }
  for (std::int64_t idle = static_cast<std::int64_t>(ids.size()); idle < size; ++idle)
    for (std::size_t k = 0; k < count; ++k) clear(row(k, idle));
}

void Stream::send_home() {
  for (Member* one : resident_members_) {
    if (one->rows.empty() && !spare_.empty()) {
      one->rows = std::move(spare_.back());
      spare_.pop_back();
    }
    if (one->rows.empty())
      for (const Tensor& spec : specs_)
        one->rows.push_back(Tensor::empty(spec.shape(), spec.dtype()));
    for (std::size_t k = 0; k < specs_.size(); ++k) copy(row(k, one->row), one->rows[k]);
    one->row = -1;
  }
  resident_members_.clear();
  residents_.clear();
  current_ = nullptr;
}

Stream::Batch Stream::make_batch(std::int64_t size, const Tensor& x) const {
  const NoGrad unrecorded;
  std::vector<Tensor> examples{Tensor::abstract(x.shape().with(0, size), x.dtype()),
                               Tensor::abstract({size}, DType::i64)};
  for (const Tensor& one : specs_)
    examples.push_back(Tensor::abstract(one.shape().inserted(0, size), one.dtype()));
  const auto f = [&](std::span<const Tensor> in) {
    Output next = form_.step(in[0], in[1], State(in.begin() + 2, in.end()));
    std::vector<Tensor> out{std::move(next.output)};
    for (Tensor& one : next.state) out.push_back(std::move(one));
    return out;
  };
  Program program = trace(f, examples, {.keep_weights = true, .carried = specs_.size()});
  if (program.draws())
    fail("stream", "the model drops values at random", "Put it into eval() before");
  return {std::move(program), Tensor::zeros(x.shape().with(0, size), x.dtype()),
          Tensor::zeros({size}, DType::i64)};
}

Tensor Stream::row(std::size_t k, std::int64_t row) const {
  return current_->program.carried(k).row(row);
}

Stream::Member& Stream::joined(std::int64_t id) { return members_[id]; }

StreamState Stream::state(std::int64_t id) const {
  StreamState result;
  const auto found = members_.find(id);
  if (found != members_.end()) result.position = found->second.position;
  for (std::size_t k = 0; k < specs_.size(); ++k) {
    if (found != members_.end() && found->second.row >= 0) {
      result.state.push_back(row(k, found->second.row).clone());
    } else if (found != members_.end() && !found->second.rows.empty()) {
      result.state.push_back(found->second.rows[k].clone());
    } else {
      result.state.push_back(Tensor::zeros(specs_[k].shape(), specs_[k].dtype()));
    }
  }
  return result;
}

void Stream::restore(const StreamState& state, std::int64_t id) {
  if (state.state.size() != specs_.size() || state.position < 0)
    fail("Stream", fmt::format("a state of {} tensors at position {}, expected {} tensors",
                               state.state.size(), state.position, specs_.size()));
  for (std::size_t k = 0; k < specs_.size(); ++k)
    if (!state.state[k].defined() || state.state[k].is_abstract() ||
        state.state[k].shape() != specs_[k].shape() || state.state[k].dtype() != specs_[k].dtype())
      fail_shape("Stream", fmt::format("state {} is {}, expected {}", k, to_string(state.state[k]),
                                       to_string(specs_[k])));
  Member& one = joined(id);
  one.position = state.position;
  if (one.row < 0) one.rows.clear();
  for (std::size_t k = 0; k < specs_.size(); ++k) {
    if (one.row >= 0) {
      copy(state.state[k], row(k, one.row));
    } else {
      one.rows.push_back(state.state[k].clone());
    }
  }
}

void Stream::reset(std::int64_t id) {
  Member& one = joined(id);
  one.position = 0;
  for (std::size_t k = 0; k < specs_.size(); ++k) {
    if (one.row >= 0) {
      clear(row(k, one.row));
    } else if (!one.rows.empty()) {
      clear(one.rows[k]);
    }
  }
}

void Stream::leave(std::int64_t id) {
  const auto found = members_.find(id);
  if (found == members_.end()) return;
  if (found->second.row >= 0) send_home();
  if (!found->second.rows.empty()) spare_.push_back(std::move(found->second.rows));
  members_.erase(found);
}

std::int64_t Stream::position(std::int64_t id) const {
  const auto found = members_.find(id);
  return found == members_.end() ? 0 : found->second.position;
}

std::vector<std::int64_t> Stream::ids() const {
  std::vector<std::int64_t> all;
  for (const auto& [id, member] : members_) all.push_back(id);
  return all;
}

std::int64_t Stream::state_bytes() const {
  std::int64_t bytes = 0;
  for (const Tensor& one : specs_) bytes += static_cast<std::int64_t>(bytes_of(one));
  return bytes;
}

}  // namespace unroll
