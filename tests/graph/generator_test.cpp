#include <unroll/graph/draw.h>
#include <unroll/graph/dry_run.h>
#include <unroll/graph/tape.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "../catch.h"

using namespace unroll;

TEST_CASE("philox's known answer at counter 0 and key 0") {
  // Random123's kat_vectors, philox4x32 with 10 rounds; the other ones set the counter's upper
  // half, which a generator does not use.
  const std::array<std::uint32_t, 4> known{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  CHECK(Generator::block(0, 0) == known);
  Generator generator(0);
  for (std::uint32_t word : known) CHECK(generator.next() == word);
  CHECK(generator.position() == 4);
}

TEST_CASE("seed and index enter whole") {
  std::set<std::array<std::uint32_t, 4>> blocks;
  for (const std::uint64_t seed : {0ull, 1ull, 1ull << 32, ~0ull})
    for (const std::uint64_t index : {0ull, 1ull, 1ull << 32, ~0ull})
      blocks.insert(Generator::block(seed, index));
  CHECK(blocks.size() == 16);
}

TEST_CASE("a copy draws the same numbers, and a place in the stream can be found again") {
  Generator a(7);
  for (int i = 0; i < 11; ++i) a.next();
  Generator copy = a;
  const std::uint64_t position = a.position();
  const std::uint32_t drawn = a.next();
  CHECK(copy.next() == drawn);
  Generator fresh(7);
  fresh.seek(position);
  CHECK(fresh.next() == drawn);
  CHECK(Generator(7).next() != Generator(8).next());
  Generator back(7);
  back.next();
  back.seek(0);
  CHECK(back.next() == Generator(7).next());
}

TEST_CASE("draw reserves whole blocks that nobody else draws") {
  Generator g(1);
  g.next();
  CHECK(g.draw(5).position().next == 4);
  CHECK(g.position() == 12);
  CHECK(g.draw(4).position().next == 12);
  CHECK(g.next() == Generator::block(1, 4)[0]);
  predict_memory([&] { g.draw(4); });
  CHECK(g.position() == 17);
}

TEST_CASE("a copy of a generator draws for itself, an assigned one goes on as the other would") {
  Generator g(1);
  g.next();
  Generator copy = g;
  CHECK(copy.next() == g.next());
  copy.next();
  CHECK(copy.position() == g.position() + 1);
  Generator other(2);
  other.next();
  other = g;
  CHECK(other.next() == Generator(g).next());
  CHECK(other.seed() == 1);
}

TEST_CASE("numbers drawn while tracing are refused: every run would use the same") {
  Generator g(1);
  const Tape tape({.trace = true});
  CHECK_THROWS_AS(g.next(), Error);
  CHECK_THROWS_AS(g.normal({2}, 0, 1), Error);
  CHECK(g.position() == 0);
  Generator own(1);  // a run would make and use it as this one does
  CHECK(own.next() == Generator::block(1, 0)[0]);
  CHECK(own.draw(4).position().next == 4);
  CHECK(!tape.draws());
}

TEST_CASE("a generator kept beyond the trace that made it is one like any other") {
  std::optional<Generator> kept;
  {
    const Tape first({.trace = true});
    kept.emplace(1);
    kept->next();
  }
  CHECK(kept->next() == Generator::block(1, 0)[1]);
  CHECK(kept->draw(4).position().next == 4);
  const Tape second({.trace = true});
  CHECK_THROWS_AS(kept->next(), Error);
  kept->draw(4);
  CHECK(second.draws());  // anew in each run, from this very generator
  CHECK(kept->position() == 8);
  const Tape inner({.trace = true});  // as a cell's in a traced function
  Generator own(2);
  CHECK_NOTHROW(own.next());
  CHECK_THROWS_AS(kept->next(), Error);
}

TEST_CASE("a traced function does not draw from its copy of a generator: it would be made once") {
  Generator g(1);
  const Generator before = g;
  {
    const Tape tape({.trace = true});
    Generator copy = g;
    CHECK_THROWS_AS(copy.next(), Error);
    CHECK_THROWS_AS(copy.draw(4), Error);
    Generator own(2), own_copy = own;  // made anew in each call, both
    CHECK(own_copy.next() == own.next());
    CHECK_NOTHROW(g.draw(4));
  }
  Generator copy = before;
  CHECK(copy.next() == Generator::block(1, 0)[0]);
}

TEST_CASE("uniform numbers lie between 0 and 1 and have mean 1/2 and variance 1/12") {
  Generator g(3);
  const Tensor x = g.uniform({100'000}, 0, 1, DType::f64);
  double sum = 0, squares = 0;
  for (double v : x.data<double>()) {
    REQUIRE((v >= 0 && v < 1));
    sum += v;
    squares += v * v;
  }
  const double mean = sum / 1e5;
  CHECK(mean == Approx(0.5).margin(0.004));
  CHECK(squares / 1e5 - mean * mean == Approx(1 / 12.0).margin(0.002));
}

TEST_CASE("normal numbers have mean, deviation and tails of a normal distribution") {
  Generator g(4);
  const Tensor x = g.normal({100'000}, 2, 3, DType::f64);
  double sum = 0, squares = 0;
  int within = 0;
  for (double v : x.data<double>()) {
    REQUIRE(std::isfinite(v));
    sum += v;
    squares += v * v;
    within += std::abs(v - 2) < 3;
  }
  const double mean = sum / 1e5;
  CHECK(mean == Approx(2).margin(0.05));
  CHECK(std::sqrt(squares / 1e5 - mean * mean) == Approx(3).margin(0.04));
  CHECK(within / 1e5 == Approx(0.6827).margin(0.006));
}

TEST_CASE("below covers its range evenly and refuses an empty one") {
  Generator g(5);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70'000; ++i) ++counts.at(static_cast<std::size_t>(g.below(7)));
  for (int count : counts) CHECK(count == Approx(10'000).margin(400));
  CHECK(g.below(1) == 0);
  CHECK_THROWS_AS(g.below(0), Error);
}

TEST_CASE("a permutation holds every number once") {
  Generator g(6);
  std::vector<std::int64_t> order = g.permutation(50);
  CHECK(!std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (std::int64_t i = 0; i < 50; ++i) CHECK(order[static_cast<std::size_t>(i)] == i);
  CHECK(g.permutation(0).empty());
}

TEST_CASE("two generators seeded by the system differ") {
  CHECK(Generator::random().seed() != Generator::random().seed());
}
