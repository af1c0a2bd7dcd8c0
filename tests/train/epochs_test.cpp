#include <unroll/layers/linear.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>
#include <unroll/optim/sgd.h>
#include <unroll/train/epochs.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "../catch.h"

using namespace unroll;

TEST_CASE("an epoch takes every example once, in batches of similar length", "[train]") {
  const auto length = [](std::int64_t i) { return i % 17; };
  for (const bool sorted : {false, true}) {
    Generator g(1);
    const auto batches = epoch_batches(103, 10, sorted ? length : decltype(EpochTask::length){}, g);
    REQUIRE(batches.size() == 11);
    std::vector<std::int64_t> seen;
    std::int64_t spread = 0;
    for (const auto& batch : batches) {
      CHECK((batch.size() == 10 || batch.size() == 3));
      seen.insert(seen.end(), batch.begin(), batch.end());
      const auto [low, high] = std::minmax_element(
          batch.begin(), batch.end(),
          [&](std::int64_t a, std::int64_t b) { return length(a) < length(b); });
      spread = std::max(spread, length(*high) - length(*low));
    }
    CHECK(sorted == (spread <= 3));
    CHECK_FALSE(std::is_sorted(seen.begin(), seen.end()));
    std::sort(seen.begin(), seen.end());
    std::vector<std::int64_t> all(103);
    std::iota(all.begin(), all.end(), 0);
    CHECK(seen == all);
  }
  Generator g(1);
  CHECK_THROWS_AS(epoch_batches(0, 10, {}, g), Error);
  CHECK_THROWS_AS(epoch_batches(10, 0, {}, g), Error);
}

TEST_CASE("the parameters of the best epoch are kept", "[train]") {
  Generator g(2);
  Linear model(1, 1, g);
  SGD optimizer(model.parameters(), {});
  const Tensor x = Tensor::full({4, 1}, 1);
  std::vector<double> weights, scores = {3, 1, 2, 2.5, 5};
  const EpochTask task{
      .examples = 4,
      .loss = [&](std::span<const std::int64_t>) { return mse_loss(model(x), x * 9.0); },
      .evaluate =
          [&] {
            CHECK_FALSE(model.training());
            weights.push_back(model.weight.value().item());
            return scores[weights.size() - 1];
          }};
  const EpochResult result =
      train_epochs(model, optimizer, task, g,
                   {.epochs = 5, .batch = 2, .learning_rate = 0.01, .patience = 2, .label = ""});
  CHECK(weights.size() == 4);  // two epochs without a better one
  CHECK(result.best_epoch == 2);
  CHECK(result.best == 1);
  CHECK(model.weight.value().item() == weights[1]);
  CHECK(weights[2] != weights[1]);
}

TEST_CASE("a factor for each epoch takes the place of warm-up and cosine", "[train]") {
  Generator g(4);
  Linear model(1, 1, g);
  SGD optimizer(model.parameters(), {});
  std::vector<double> rates;
  const EpochTask task{.examples = 4, .loss = [&](std::span<const std::int64_t>) {
                         rates.push_back(optimizer.learning_rate());
                         return sum(model(Tensor::full({1, 1}, 1)));
                       }};
  train_epochs(model, optimizer, task, g,
               {.epochs = 3,
                .batch = 2,
                .learning_rate = 0.5,
                .warmup = 0.5,
                .epoch_factor = [](int epoch) { return 1.0 / epoch; },
                .label = ""});
  CHECK(rates == std::vector<double>{0.5, 0.5, 0.25, 0.25, 0.5 / 3, 0.5 / 3});
}

TEST_CASE("a loss that is not finite stops the epochs", "[train]") {
  Generator g(3);
  Linear model(1, 1, g);
  SGD optimizer(model.parameters(), {});
  const double before = model.weight.value().item();
  const EpochTask task{
      .examples = 4, .loss = [&](std::span<const std::int64_t>) {
        return sum(model(Tensor::full({1, 1}, 1)) * std::numeric_limits<double>::infinity());
      }};
  CHECK(has(message_of([&] { train_epochs(model, optimizer, task, g, {.label = ""}); }),
            "the loss in epoch 1"));
  CHECK(model.weight.value().item() == before);
}
