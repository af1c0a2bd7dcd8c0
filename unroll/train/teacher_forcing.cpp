#include <fmt/format.h>
#include <unroll/ops/index.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>
#include <unroll/train/evaluation.h>
#include <unroll/train/teacher_forcing.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace unroll {

namespace teacher {
namespace {

void check_probability(const char* what, double p) {
  if (!(p >= 0 && p <= 1)) fail("teacher", fmt::format("{} is {}, not in [0, 1]", what, p));
}

}  // namespace

Schedule constant(double probability) {
  check_probability("the probability", probability);
  return [probability](std::int64_t) { return probability; };
}

Schedule linear(const Linear& options) {
  check_probability("the floor", options.floor);
  check_probability("the offset", options.offset);
  if (!(options.slope >= 0) || !std::isfinite(options.slope))
    fail("teacher", fmt::format("the slope is {}, not 0 or above", options.slope));
  return [options](std::int64_t step) {
    return std::max(options.floor, options.offset - options.slope * static_cast<double>(step));
  };
}

Schedule inverse_sigmoid(double k) {
  if (!(k >= 1) || !std::isfinite(k)) fail("teacher", fmt::format("k is {}, below 1", k));
  return [k](std::int64_t step) { return k / (k + std::exp(static_cast<double>(step) / k)); };
}

double inverse_sigmoid_k(double half) {
  if (!(half >= 0) || !std::isfinite(half))
    fail("teacher", fmt::format("half at step {}, not 0 or above", half));
  double k = std::max(half, 3.0);  // k log k rises from k = 1 on, and is convex: Newton from above
  for (int i = 0; i < 60; ++i) k -= (k * std::log(k) - half) / (std::log(k) + 1);
  return std::max(k, 1.0);
}

}  // namespace teacher

namespace {

// The model's choice at every step of [T, B]; `keeps` tells which given inputs it reads.
template <class Keeps>
Tensor run_steps(Seq2Seq& model, Decoding at, const Tensor& inputs, const Keeps& keeps,
                 Tensor* predictions) {
  const std::int64_t steps = inputs.size(0), batch = inputs.size(1);
  Tensor read = inputs.clone();
  auto* values = read.mutable_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < steps; ++t) {
    if (predictions == nullptr && t + 1 == steps) break;  // nobody reads the last one's choice
    const Tensor chosen = argmax(model.step(read.row(t), at));
    const auto* best = chosen.ptr<std::int64_t>();
    for (std::int64_t b = 0; b < batch; ++b) {
      if (predictions != nullptr) predictions->mutable_ptr<std::int64_t>()[t * batch + b] = best[b];
      if (t + 1 < steps && !keeps((t + 1) * batch + b)) values[(t + 1) * batch + b] = best[b];
    }
  }
  return read;
}

}  // namespace

Tensor scheduled_inputs(Seq2Seq& model, const Decoding& start, const Tensor& inputs,
                        const SamplingOptions& options, Generator& generator) {
  if (!(options.teacher >= 0 && options.teacher <= 1))
    fail("scheduled_inputs", fmt::format("teacher is {}, not in [0, 1]", options.teacher));
  if (options.teacher == 1) return inputs;
  std::vector<bool> kept;
  for (std::int64_t i = 0; i < inputs.numel(); ++i)
    kept.push_back(generator.uniform() < options.teacher);
  const Evaluation evaluation(model);
  if (!options.two_pass)
    return run_steps(
        model, start, inputs,
        [&](std::int64_t i) { return bool(kept[static_cast<std::size_t>(i)]); }, nullptr);
  const Tensor chosen = argmax(model.decode(inputs, start).output);
  Tensor read = inputs.clone();
  for (std::int64_t i = inputs.size(1); i < inputs.numel(); ++i)
    if (!kept[static_cast<std::size_t>(i)])
      read.mutable_ptr<std::int64_t>()[i] = chosen.ptr<std::int64_t>()[i - inputs.size(1)];
  return read;
}

Tensor seq2seq_loss(Seq2Seq& model, const PairBatch& batch, Generator& generator,
                    const Seq2SeqLossOptions& options) {
  const Decoding start = model.encode(batch.source, batch.lengths);
  const Tensor inputs = scheduled_inputs(model, start, batch.inputs, options.sampling, generator);
  return cross_entropy(model.decode(inputs, start).output, batch.targets,
                       {.label_smoothing = options.label_smoothing});
}

namespace {

struct Counts {
  std::int64_t sequences = 0, symbols = 0, teacher_forced = 0, free_running = 0, exact = 0;
  void operator+=(const Counts& other) {
    sequences += other.sequences;
    symbols += other.symbols;
    teacher_forced += other.teacher_forced;
    free_running += other.free_running;
    exact += other.exact;
  }
};

ExposurePoint point(std::int64_t shortest, std::int64_t longest, const Counts& counts) {
  const auto share = [](std::int64_t part, std::int64_t all) {
    return static_cast<double>(part) / static_cast<double>(all);
  };
  return {.shortest = shortest,
          .longest = longest,
          .sequences = counts.sequences,
          .symbols = counts.symbols,
          .teacher_forced = share(counts.teacher_forced, counts.symbols),
          .free_running = share(counts.free_running, counts.symbols),
          .exact = share(counts.exact, counts.sequences)};
}

std::vector<SequencePair> picked(std::span<const SequencePair> pairs,
                                 std::span<const std::size_t> indices) {
  std::vector<SequencePair> result;
  for (const std::size_t i : indices) result.push_back(pairs[i]);
  return result;
}

}  // namespace

std::vector<ExposurePoint> measure_exposure(Seq2Seq& model, std::span<const SequencePair> pairs,
                                            std::int64_t batch, std::int64_t per_point) {
  if (pairs.empty()) fail("measure_exposure", "there are no pairs");
  if (per_point < 1) fail("measure_exposure", fmt::format("points of {} lengths", per_point));
  const Evaluation evaluation(model);
  std::map<std::int64_t, Counts> by_length;
  for (const auto& indices : length_batches(pairs, batch)) {
    const PairBatch b = pair_batch(picked(pairs, indices));
    const std::int64_t steps = b.inputs.size(0), count = b.inputs.size(1);
    const Decoding start = model.encode(b.source, b.lengths);
    const Tensor taught = argmax(model.decode(b.inputs, start).output);
    Tensor alone = Tensor::empty({steps, count}, DType::i64);
    run_steps(
        model, start, b.inputs, [](std::int64_t) { return false; }, &alone);
    const auto *right = b.targets.ptr<std::int64_t>(), *one = taught.ptr<std::int64_t>(),
               *other = alone.ptr<std::int64_t>();
    for (std::int64_t i = 0; i < count; ++i) {
      Counts counts{.sequences = 1};
      for (std::int64_t at = i; at < steps * count && right[at] >= 0; at += count) {
        ++counts.symbols;
        counts.teacher_forced += one[at] == right[at] ? 1 : 0;
        counts.free_running += other[at] == right[at] ? 1 : 0;
      }
      counts.exact = counts.free_running == counts.symbols ? 1 : 0;
      by_length[counts.symbols] += counts;
    }
  }
  std::vector<ExposurePoint> points;
  Counts all, some;
  std::int64_t shortest = 0;
  for (auto at = by_length.begin(); at != by_length.end();) {
    if (some.sequences == 0) shortest = at->first;
    some += at->second;
    all += at->second;
    const std::int64_t longest = at->first;
    ++at;
    const bool last = at == by_length.end();
    if (!last && (at->first - 1) / per_point == (longest - 1) / per_point) continue;
    points.push_back(point(shortest, longest, some));
    some = {};
  }
  points.push_back(point(by_length.begin()->first, by_length.rbegin()->first, all));
  return points;
}

double mean_symbol_loss(Seq2Seq& model, std::span<const SequencePair> pairs, std::int64_t batch) {
  if (pairs.empty()) fail("mean_symbol_loss", "there are no pairs");
  const Evaluation evaluation(model);
  double sum = 0;
  std::int64_t symbols = 0;
  for (const auto& indices : length_batches(pairs, batch)) {
    const PairBatch b = pair_batch(picked(pairs, indices));
    const Tensor logits = model.decode(b.inputs, model.encode(b.source, b.lengths)).output;
    sum += cross_entropy(logits, b.targets, {.reduction = Reduction::sum}).item();
    for (const std::size_t i : indices)
      symbols += static_cast<std::int64_t>(pairs[i].target.size()) + 1;
  }
  return sum / static_cast<double>(symbols);
}

}  // namespace unroll
