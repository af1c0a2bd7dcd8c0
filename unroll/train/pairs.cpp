#include <fmt/format.h>
#include <unroll/io/fail_data.h>
#include <unroll/io/tokens.h>
#include <unroll/train/pairs.h>

#include <algorithm>
#include <numeric>
#include <tuple>

namespace unroll {
namespace {

constexpr std::int64_t not_asked = -100;  // what cross_entropy ignores

using Sequences = std::vector<std::span<const std::int64_t>>;

void put_sources(const Sequences& sources, PairBatch& batch) {
  const auto count = static_cast<std::int64_t>(sources.size());
  if (count == 0) fail("seq2seq", "a batch without sequences");
  std::size_t longest = 0;
  for (const auto& one : sources) {
    if (one.empty()) fail("seq2seq", "a source without symbols");
    longest = std::max(longest, one.size());
  }
  batch.source = Tensor::full({static_cast<std::int64_t>(longest), count},
                              static_cast<double>(pad_token), DType::i64);
  batch.lengths = Tensor::empty({count}, DType::i64);
  for (std::int64_t b = 0; b < count; ++b) {
    const auto& one = sources[static_cast<std::size_t>(b)];
    batch.lengths.mutable_ptr<std::int64_t>()[b] = static_cast<std::int64_t>(one.size());
    for (std::size_t t = 0; t < one.size(); ++t)
      batch.source.mutable_ptr<std::int64_t>()[static_cast<std::int64_t>(t) * count + b] = one[t];
  }
}

auto by_length(std::span<const SequencePair> pairs) {
  return [pairs](std::size_t a, std::size_t b) {
    const auto key = [&](std::size_t i) {
      return std::tuple(pairs[i].target.size(), pairs[i].source.size(), i);
    };
    return key(a) < key(b);
  };
}

}  // namespace

PairBatch source_batch(std::span<const std::vector<std::int64_t>> sources) {
  PairBatch batch;
  put_sources(Sequences(sources.begin(), sources.end()), batch);
  return batch;
}

PairBatch pair_batch(std::span<const SequencePair> pairs) {
  PairBatch batch;
  Sequences sources;
  std::size_t longest = 0;
  for (const SequencePair& pair : pairs) {
    sources.emplace_back(pair.source);
    longest = std::max(longest, pair.target.size());
  }
  put_sources(sources, batch);
  const auto count = static_cast<std::int64_t>(pairs.size());
  const auto steps = static_cast<std::int64_t>(longest) + 1;
  batch.inputs = Tensor::full({steps, count}, static_cast<double>(pad_token), DType::i64);
  batch.targets = Tensor::full({steps, count}, static_cast<double>(not_asked), DType::i64);
  auto* inputs = batch.inputs.mutable_ptr<std::int64_t>();
  auto* targets = batch.targets.mutable_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < count; ++b) {
    inputs[b] = start_token;
    std::int64_t at = b;
    for (const std::int64_t symbol : pairs[static_cast<std::size_t>(b)].target) {
      targets[at] = symbol;
      at += count;
      inputs[at] = symbol;
    }
    targets[at] = end_token;
  }
  return batch;
}

RandomPairs::RandomPairs(std::span<const SequencePair> pairs, std::int64_t batch)
    : pairs_(pairs), batch_(batch) {
  if (batch < 1) fail("seq2seq", fmt::format("batches of {}", batch));
  if (pairs.empty()) fail_data("seq2seq", "there are no pairs to learn from");
  for (std::size_t i = 0; i < pairs.size(); ++i)
    if (pairs[i].source.empty()) fail_data("seq2seq", fmt::format("pair {} has no source", i));
}

PairBatch RandomPairs::next(Generator& generator) const {
  constexpr std::int64_t runs = 16;  // of which one is taken
  std::vector<std::size_t> drawn;
  for (std::int64_t i = 0; i < runs * batch_; ++i)
    drawn.push_back(
        static_cast<std::size_t>(generator.below(static_cast<std::int64_t>(pairs_.size()))));
  std::sort(drawn.begin(), drawn.end(), by_length(pairs_));
  const auto first = static_cast<std::size_t>(generator.below(runs) * batch_);
  std::vector<SequencePair> taken;
  for (std::size_t i = first; i < first + static_cast<std::size_t>(batch_); ++i)
    taken.push_back(pairs_[drawn[i]]);
  return pair_batch(taken);
}

std::vector<std::vector<std::size_t>> length_batches(std::span<const SequencePair> pairs,
                                                     std::int64_t batch) {
  if (batch < 1) fail("seq2seq", fmt::format("batches of {}", batch));
  std::vector<std::size_t> order(pairs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), by_length(pairs));
  std::vector<std::vector<std::size_t>> batches;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i % static_cast<std::size_t>(batch) == 0) batches.emplace_back();
    batches.back().push_back(order[i]);
  }
  return batches;
}

}  // namespace unroll
