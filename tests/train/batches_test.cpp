#include <unroll/train/batches.h>

#include <numeric>
#include <set>

#include "../catch.h"
#include "setup.h"

using namespace unroll;
using namespace unroll::test;

namespace {

std::vector<std::int64_t> counting(std::int64_t n) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(n));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

}  // namespace

TEST_CASE("random windows: y is x one token later, everywhere in the stream") {
  const std::vector<std::int64_t> tokens = counting(12);
  const RandomWindows windows(tokens, 3, 4);
  Generator g(1);
  std::set<std::int64_t> starts;
  for (int i = 0; i < 200; ++i) {
    const Batch batch = windows.next(g);
    REQUIRE(batch.x.shape() == Shape{4, 3});
    for (std::int64_t b = 0; b < 3; ++b) {
      const std::int64_t start = batch.x.data<std::int64_t>()[static_cast<std::size_t>(b)];
      starts.insert(start);
      for (std::int64_t t = 0; t < 4; ++t) {
        const auto at = static_cast<std::size_t>(t * 3 + b);
        REQUIRE(batch.x.data<std::int64_t>()[at] == start + t);
        REQUIRE(batch.y.data<std::int64_t>()[at] == start + t + 1);
      }
    }
  }
  CHECK(starts.size() == 8);
  CHECK(*starts.rbegin() == 7);  // the last window's target is the last token
  CHECK_NOTHROW(RandomWindows(std::span(tokens).first(5), 3, 4).next(g));
  CHECK_THROWS_AS(RandomWindows(std::span(tokens).first(4), 3, 4), DataError);
  CHECK_THROWS_AS(RandomWindows(tokens, 0, 4), Error);
}

std::int64_t first(const Batch& batch) { return batch.x.data<std::int64_t>()[0]; }

TEST_CASE("the held-out tenth must hold a window, or the length that would do is said") {
  for (const std::int64_t steps : {1, 16, 64}) {
    CAPTURE(steps);
    const std::int64_t enough = 10 * steps + 1;
    CHECK(training_part("test", enough, steps, "rows") == 9 * steps);
    const std::string message =
        message_of<DataError>([&] { training_part("test", enough - 1, steps, "rows"); });
    CHECK(has(message, std::to_string(enough - 1) + " rows"));
    CHECK(has(message, "need " + std::to_string(enough)));
  }
  CHECK(training_part("test", 1009, 1, "rows") == 908);
}

TEST_CASE("contiguous windows continue each other, row by row, and begin again") {
  const std::vector<std::int64_t> tokens = counting(2 * 13 + 1);
  ContiguousWindows stream(tokens, 2, 4);
  CHECK(stream.batches() == 3);
  std::int64_t last[2] = {-1, 12};
  for (int i = 0; i < 3; ++i) {
    CHECK(stream.at_start() == (i == 0));
    const Batch batch = stream.next();
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t t = 0; t < 4; ++t) {
        const auto at = static_cast<std::size_t>(t * 2 + b);
        REQUIRE(batch.x.data<std::int64_t>()[at] == ++last[b]);
        REQUIRE(batch.y.data<std::int64_t>()[at] == last[b] + 1);
      }
  }
  CHECK(stream.at_start());
  CHECK(first(stream.next()) == 0);
  stream.seek(8);
  CHECK(first(stream.next()) == 8);
  CHECK_THROWS_AS(stream.seek(3), Error);
  CHECK_THROWS_AS(stream.seek(12), Error);
  CHECK_THROWS_AS(ContiguousWindows(tokens, 9, 4), DataError);
}

TEST_CASE("series windows: y is the target one step later") {
  Tensor series = Tensor::empty({10, 2});
  for (std::size_t i = 0; i < 20; ++i) series.mutable_data<float>()[i] = static_cast<float>(i);
  const RandomSeriesWindows windows(series, 1, 2, 3);
  Generator g(1);
  for (int i = 0; i < 50; ++i) {
    const Batch batch = windows.next(g);
    REQUIRE(batch.x.shape() == Shape{3, 2, 2});
    REQUIRE(batch.y.shape() == Shape{3, 2, 1});
    for (std::size_t k = 0; k < 6; ++k)
      REQUIRE(batch.y.data<float>()[k] == batch.x.data<float>()[2 * k] + 3);
  }
  CHECK_THROWS_AS(RandomSeriesWindows(series, 2, 2, 3), Error);
  CHECK_THROWS_AS(RandomSeriesWindows(series, 0, 2, 10), DataError);
}
