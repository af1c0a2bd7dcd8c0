#include <unroll/graph/dry_run.h>
#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/recurrent.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/loss.h>
#include <unroll/optim/adam.h>

#include <cstdint>
#include <thread>

#include "../catch.h"

using namespace unroll;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool caching = false;
#else
constexpr bool caching = true;
#endif

std::int64_t live(MemoryKind kind) {
  return memory_stats().live_by_kind[static_cast<std::size_t>(kind)];
}

}  // namespace

TEST_CASE("blocks hold what was asked, waste at most a quarter and are aligned") {
  for (std::size_t bytes = 0; bytes < 200'000; bytes += bytes < 2000 ? 1 : 997) {
    Buffer* block = Buffer::allocate(bytes);
    REQUIRE(block->capacity >= bytes);
    if (bytes > 512) REQUIRE(block->capacity <= bytes + bytes / 4 + 64);
    REQUIRE(reinterpret_cast<std::uintptr_t>(block->data()) % 64 == 0);
    block->release();
  }
}

TEST_CASE("a freed block is used again for its size class") {
  if (!caching) return;
  const std::byte* first = nullptr;
  {
    const Tensor x = Tensor::empty({1000});
    first = x.bytes();
  }
  const std::int64_t before = memory_stats().system_allocations;
  const Tensor y = Tensor::empty({999});
  CHECK(y.bytes() == first);
  CHECK(memory_stats().system_allocations == before);
}

TEST_CASE("stats count what is live, by kind, and the peak") {
  const MemoryStats before = memory_stats();
  {
    const Tensor x = Tensor::empty({1024});
    const Tensor same = x;  // NOLINT: a second handle costs nothing
    CHECK(memory_stats().live - before.live == Approx(4096).epsilon(0.25));
    CHECK(memory_stats().allocations == before.allocations + 1);
    reset_peak_memory();
    { const Tensor y = Tensor::empty({1 << 16}); }
    CHECK(memory_stats().peak - memory_stats().live >= 1 << 18);
    {
      const MemoryScope scope(MemoryKind::optimizer);
      const Tensor z = Tensor::empty({1024});
      CHECK(live(MemoryKind::optimizer) - before.live_by_kind[3] >= 4096);
      CHECK(live(MemoryKind::value) - before.live_by_kind[0] < 5200);
    }
    const Parameter p(Tensor::zeros({1024}));
    CHECK(live(MemoryKind::parameter) - before.live_by_kind[2] >= 4096);
    Tape tape;
    const Tensor loss = mse_loss(p, Tensor::zeros({1024}));
    tape.backward(loss);
    CHECK(live(MemoryKind::gradient) - before.live_by_kind[1] >= 4096);
  }
  CHECK(memory_stats().live == before.live);
  CHECK(memory_stats().live_by_kind == before.live_by_kind);
  reset_peak_memory();
  CHECK(memory_stats().peak == memory_stats().live);
}

TEST_CASE("cached memory is given back on request") {
  { const Tensor x = Tensor::empty({100'000}); }
  if (caching) CHECK(memory_stats().cached >= 400'000);
  release_cached_memory();
  CHECK(memory_stats().cached == 0);
}

TEST_CASE("what is kept for reuse is counted whichever thread frees a block, and no phantom is") {
  if (!caching) return;
  Tensor here = Tensor::empty({100'000}), there;
  const MemoryStats before = memory_stats();
  std::thread other([&] {
    here.reset();  // this thread had no block yet
    CHECK(memory_stats().live <= before.live - 400'000);
    CHECK(memory_stats().cached - before.cached == before.live - memory_stats().live);
    there = Tensor::empty({100'000});  // the same block
    CHECK(memory_stats().cached == before.cached);
    CHECK(memory_stats().live == before.live);
  });
  other.join();
  there.reset();
  CHECK(memory_stats().cached - before.cached == before.live - memory_stats().live);
  const std::int64_t kept = memory_stats().cached;
  {
    const DryRun dry;
    const Tensor phantom = Tensor::empty({1'000'000});
    CHECK(memory_stats().live > before.live);
    CHECK(memory_stats().cached == kept);
  }
  CHECK(memory_stats().cached == kept);
}

TEST_CASE("a steady training loop asks the system for no memory and leaks none") {
  Generator g(1);
  Embedding embed(20, 16, g);
  LSTM lstm({.input_size = 16, .hidden_size = 24, .num_layers = 2, .dropout = 0.1}, g);
  Linear head(24, 20, g);
  std::vector<Parameter> parameters;
  for (Module* part : std::initializer_list<Module*>{&embed, &lstm, &head})
    for (const Parameter& p : part->parameters()) parameters.push_back(p);
  AdamW optimizer(parameters, {.learning_rate = 1e-3});
  Tensor tokens = Tensor::empty({9, 4}, DType::i64);
  for (std::int64_t& token : tokens.mutable_data<std::int64_t>()) token = g.below(20);
  const auto step = [&] {
    Tape tape;
    const Tensor loss =
        cross_entropy(head(lstm(embed(tokens.rows(0, 8))).output), tokens.rows(1, 9));
    tape.backward(loss);
    optimizer.step();
    optimizer.zero_grad();
  };
  for (int i = 0; i < 5; ++i) step();
  const MemoryStats warm = memory_stats();
  for (int i = 0; i < 20; ++i) step();
  CHECK(memory_stats().live == warm.live);
  if (caching) CHECK(memory_stats().system_allocations == warm.system_allocations);
  CHECK(memory_stats().allocations > warm.allocations);
}

TEST_CASE("memory the system does not have is an error that says how much was asked") {
  for (const int bits : {45, 47, 53, 60}) {
    CAPTURE(bits);
    const std::string message = message_of([&] { Tensor::empty({std::int64_t{1} << bits, 1}); });
    CHECK(has(message, "bytes asked"));
    CHECK(has(message, "live"));
  }
  // The product of the sizes does not fit into 64 bits.
  const Shape shape{std::int64_t{1} << 40, std::int64_t{1} << 40};
  CHECK(has(message_of([&] { Tensor::zeros(shape); }), "larger than any memory"));
  CHECK(has(message_of([] { Tensor::empty({std::int64_t{1} << 62}); }), "larger than any memory"));
}
