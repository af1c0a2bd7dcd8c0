#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/recurrent.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/attention.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>
#include <unroll/optim/adam.h>

#include <optional>
#include <set>
#include <string>

#include "../catch.h"
#include "../limit.h"

using namespace unroll;

namespace {

struct Training {
  Generator g{1};
  LSTM lstm{{.input_size = 16, .hidden_size = 24, .num_layers = 2}, g};
  Linear head{24, 8, g};
  std::vector<Parameter> parameters;
  std::optional<Adam> adam;
  Tensor x = g.normal({40, 4, 16}, 0, 1), y = g.normal({40, 4, 8}, 0, 1);

  Training() {
    for (Module* part : std::initializer_list<Module*>{&lstm, &head})
      for (const Parameter& p : part->parameters()) parameters.push_back(p);
    adam.emplace(parameters);
  }
  void step() {
    adam->zero_grad();
    Tape tape;
    tape.backward(mse_loss(head(lstm(x).output), y));
    adam->step();
  }
  /// Every bit that training changes.
  std::string bits() const {
    std::string all;
    const auto add = [&](const Tensor& t) {
      all.append(reinterpret_cast<const char*>(t.bytes()),
                 static_cast<std::size_t>(t.numel() * size_of(t.dtype())));
    };
    for (const Parameter& p : parameters) add(p.value());
    for (const auto& [name, tensor] : adam->state_dict()) {
      all += name;
      add(tensor);
    }
    return all;
  }
};

}  // namespace

TEST_CASE("the memory limit's error names the op, its operands, the bytes and what is live") {
  const Tensor a = Tensor::zeros({512, 512}), b = Tensor::zeros({512, 512});
  release_cached_memory();
  const Limit limit(memory_stats().live + 100'000);
  CHECK(memory_limit() == memory_stats().live + 100'000);
  const std::string message = message_of([&] { matmul(a, b); });
  CAPTURE(message);
  for (const char* part :
       {"[matmul]", "1048576 bytes asked by matmul of f32 [512, 512], f32 [512, 512]", "live",
        "values", "gradients", "parameters", "optimizer", "limit", "memory_limit_test.cpp",
        "smaller batch"})
    CHECK(has(message, part));
  CHECK_NOTHROW(Tensor::empty({20'000}));
  CHECK_THROWS_AS(Tensor::empty({30'000}), MemoryError);
  CHECK_THROWS_AS(set_memory_limit(-1), Error);
}

TEST_CASE("blocks kept for reuse are given back before the limit fails anything") {
  release_cached_memory();
  const Limit limit(memory_stats().live + 1'000'000);
  for (std::int64_t elements = 1000; elements < 200'000; elements += 1111)
    CHECK_NOTHROW(Tensor::empty({elements}));
}

TEST_CASE("a training step that runs out of memory changes nothing and frees what it took") {
  Training disturbed, undisturbed;
  // The limit ends memory at every stage: forward, backward, the first moments.
  const std::int64_t live = memory_stats().live;
  const std::string before = disturbed.bits();
  std::set<std::string> stages;
  int failures = 0;
  bool done = false;
  for (std::int64_t room = 0; !done; room += 20'000) {
    CAPTURE(room);
    {
      const Limit limit(live + room);
      try {
        disturbed.step();
        done = true;
      } catch (const MemoryError& error) {
        ++failures;
        stages.insert(std::string(error.what()).substr(0, std::string(error.what()).find(']')));
        REQUIRE(has(error.what(), "bytes asked"));
      }
    }
    if (done) break;
    REQUIRE(disturbed.bits() == before);
    disturbed.adam->zero_grad();
    REQUIRE(memory_stats().live == live);
  }
  CHECK(failures > 3);
  for (const char* stage : {"[scan", "[scan, backward"}) CHECK(stages.count(stage) == 1);
  undisturbed.step();
  for (int i = 0; i < 3; ++i) {
    CHECK(disturbed.bits() == undisturbed.bits());
    disturbed.step();
    undisturbed.step();
  }
}

TEST_CASE("an optimizer without room for its moments names itself and stays as it was") {
  const Parameter p(Tensor::zeros({100'000})), q(Tensor::zeros({100'000}));
  Adam adam({p, q});
  for (Parameter one : {p, q}) one.set_grad(Tensor::full({100'000}, 1));
  const std::int64_t live = memory_stats().live;
  {
    const Limit limit(live + 1'000'000);
    const std::string message = message_of([&] { adam.step(); });
    CHECK(has(message, "[Adam]"));
    CHECK(has(message, "f32 [100000]"));
  }
  CHECK(memory_stats().live == live);
  CHECK(adam.state_dict().size() == 2);
  CHECK(p.value().data<float>()[0] == 0);
  adam.step();
  CHECK(p.value().data<float>()[0] != 0);
}

TEST_CASE("gradients that are held elsewhere stay whole where memory ends") {
  const Parameter p(Tensor::zeros({1000})), q(Tensor::zeros({200'000}));
  const Tensor one = Tensor::full({1000}, 1), many = Tensor::full({200'000}, 1);
  Parameter(p).set_grad(one);
  Parameter(q).set_grad(many);
  Tape tape;
  const Tensor loss = sum(Tensor(p)) + sum(Tensor(q));
  {
    const Limit limit(memory_stats().live + 1'000'000);
    CHECK_THROWS_AS(tape.backward(loss), MemoryError);
  }
  CHECK(p.grad().data<float>()[0] == 1);
  CHECK(q.grad().data<float>()[0] == 1);
}

TEST_CASE("memory that ends on another thread is an error, too") {
  const Tensor q = Tensor::full({8, 4, 256, 32}, 0.1);
  set_threads(2);
  release_cached_memory();
  {
    const Limit limit(memory_stats().live + memory_stats().cached + q.numel() * 4 +
                      8 * 4 * 256 * 4 + 8192);
    CHECK_THROWS_AS(attention(q, q, q), MemoryError);
  }
  CHECK_NOTHROW(attention(q, q, q));
  parallel_for(2, 1, 1e9, [](std::int64_t, std::int64_t) { release_cached_memory(); });
  set_threads(1);
}

TEST_CASE("an optimizer's step inside the tape's scope copies no parameter") {
  Training training;
  training.step();
  const std::byte* const place = training.parameters[0].value().bytes();
  training.step();
  CHECK(training.parameters[0].value().bytes() == place);
}

TEST_CASE("a parameter used behind the walk back has its present value") {
  Parameter p(Tensor::full({3}, 2));
  Tape tape;
  tape.backward(sum(Tensor(p) * Tensor(p)));
  p.mutable_value().mutable_data<float>()[0] = 5;
  p.zero_grad();
  tape.backward(sum(Tensor(p) * Tensor(p)));
  CHECK(p.grad().data<float>()[0] == 10);
  CHECK(p.grad().data<float>()[1] == 4);
}

TEST_CASE("an op that finds no memory leaves the tape as it was: it can be called again") {
  // Where chunks, blocks of the arena and leaves are about to end is met by some length of chain.
  for (const bool rewound : {false, true})
    for (int before = 100; before < 140; ++before) {
      const Parameter p(Tensor::full({2, 2}, 0.5)), q(Tensor::full({2, 2}, 0.25));
      int failures = 0;
      {
        Tape tape;
        Tensor h = p * 1.0;
        for (int i = 0; i < before; ++i) h = h * 1.0;
        const Tape::Mark mark = tape.mark();
        std::optional<Tensor> product;
        while (!product) {
          release_cached_memory();
          const std::size_t nodes = tape.size(), values = tape.value_count();
          try {
            const Limit limit(memory_stats().live + memory_stats().cached + 1 + 200 * failures);
            product = h * q;
          } catch (const MemoryError& error) {
            ++failures;
            CAPTURE(error.what());
            const std::string_view text = error.what();
            CHECK((text.starts_with("[mul]") || text.starts_with("[parameter]")));
            // The leaf of q may be there, whole.
            CHECK((tape.size() == nodes || tape.size() == nodes + 1));
            CHECK(tape.value_count() - values == tape.size() - nodes);
            if (rewound) tape.rewind(mark);
          }
        }
        tape.backward(sum(*product));
      }
      CAPTURE(before, rewound, failures);
      CHECK(failures > 0);
      CHECK(p.grad().data<float>()[3] == 0.25F);
      CHECK(q.grad().data<float>()[3] == 0.5F);
    }
}
