#include <fmt/format.h>
#include <unroll/train/batches.h>

namespace unroll {
namespace {

void check(const char* what, std::int64_t have, std::int64_t batch, std::int64_t steps) {
  if (batch < 1 || steps < 1)
    fail(what, fmt::format("batch {} and steps {} must be positive", batch, steps));
  if (have <= steps)
    throw DataError(error_message(
        what, fmt::format("{} elements, too few for windows of {} steps", have, steps), nullptr,
        fmt::format("Give at least {}, or use shorter windows",
                    static_cast<std::uint64_t>(steps) + 1)));
}

}  // namespace

std::int64_t training_part(const char* what, std::int64_t count, std::int64_t steps,
                           const char* elements) {
  const std::int64_t part = count / 10 * 9 + count % 10 * 9 / 10;
  if (count - part <= steps)
    throw DataError(error_message(
        what,
        fmt::format("{} {} are too short a file, of which windows of {} steps need {}", count,
                    elements, steps, 10 * steps + 1),
        nullptr, "The last tenth is held out and must hold a window"));
  return part;
}

RandomWindows::RandomWindows(std::span<const std::int64_t> tokens, std::int64_t batch,
                             std::int64_t steps)
    : tokens_(tokens), batch_(batch), steps_(steps) {
  check("batches", static_cast<std::int64_t>(tokens.size()), batch, steps);
}

Batch RandomWindows::next(Generator& generator) const {
  Batch batch{Tensor::empty({steps_, batch_}, DType::i64),
              Tensor::empty({steps_, batch_}, DType::i64)};
  const auto places = static_cast<std::int64_t>(tokens_.size()) - steps_;
  for (std::int64_t b = 0; b < batch_; ++b) {
    const std::int64_t start = generator.below(places);
    for (std::int64_t t = 0; t < steps_; ++t) {
      batch.x.mutable_ptr<std::int64_t>()[t * batch_ + b] = tokens_[start + t];
      batch.y.mutable_ptr<std::int64_t>()[t * batch_ + b] = tokens_[start + t + 1];
    }
  }
  return batch;
}

ContiguousWindows::ContiguousWindows(std::span<const std::int64_t> tokens, std::int64_t batch,
                                     std::int64_t steps)
    : tokens_(tokens), batch_(batch), steps_(steps) {
  if (batch < 1 || steps < 1)
    fail("batches", fmt::format("batch {} and steps {} must be positive", batch, steps));
  length_ = (static_cast<std::int64_t>(tokens.size()) - 1) / batch;
  if (length_ < steps)
    throw DataError(error_message(
        "batches",
        fmt::format("{} elements, too few for {} streams of {} steps", tokens.size(), batch, steps),
        nullptr,
        fmt::format("Give at least {:.0f}, or smaller batches or shorter windows",
                    static_cast<double>(batch) * static_cast<double>(steps) + 1)));
}

void ContiguousWindows::seek(std::int64_t position) {
  if (position < 0 || position % steps_ != 0 || position + steps_ > length_)
    fail("batches", fmt::format("position {} is not the start of a batch", position));
  position_ = position;
}

Batch ContiguousWindows::next() {
  Batch batch{Tensor::empty({steps_, batch_}, DType::i64),
              Tensor::empty({steps_, batch_}, DType::i64)};
  for (std::int64_t b = 0; b < batch_; ++b)
    for (std::int64_t t = 0; t < steps_; ++t) {
      const std::int64_t at = b * length_ + position_ + t;
      batch.x.mutable_ptr<std::int64_t>()[t * batch_ + b] = tokens_[at];
      batch.y.mutable_ptr<std::int64_t>()[t * batch_ + b] = tokens_[at + 1];
    }
  position_ += steps_;
  if (position_ + steps_ > length_) position_ = 0;
  return batch;
}

RandomSeriesWindows::RandomSeriesWindows(const Tensor& series, std::int64_t target,
                                         std::int64_t batch, std::int64_t steps)
    : series_(series), target_(target), batch_(batch), steps_(steps) {
  if (series.rank() != 2 || series.dtype() != DType::f32 || target < 0 || target >= series.size(1))
    fail("batches", fmt::format("target channel {} of a series {}", target, to_string(series)));
  check("batches", series.size(0), batch, steps);
}

Batch RandomSeriesWindows::next(Generator& generator) const {
  const std::int64_t channels = series_.size(1);
  Batch batch{Tensor::empty({steps_, batch_, channels}), Tensor::empty({steps_, batch_, 1})};
  const float* values = series_.ptr<float>();
  for (std::int64_t b = 0; b < batch_; ++b) {
    const std::int64_t start = generator.below(series_.size(0) - steps_);
    for (std::int64_t t = 0; t < steps_; ++t) {
      const float* row = values + (start + t) * channels;
      std::copy(row, row + channels, batch.x.mutable_ptr<float>() + (t * batch_ + b) * channels);
      batch.y.mutable_ptr<float>()[t * batch_ + b] = row[channels + target_];
    }
  }
  return batch;
}

}  // namespace unroll
