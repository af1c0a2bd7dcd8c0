// Not under the sanitizers, which bring an operator new of their own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/loss.h>
#include <unroll/optim/adam.h>
#include <unroll/train/stream.h>
#include <unroll/train/train_step.h>

#include <cstdlib>
#include <new>

#include "../catch.h"

using namespace unroll;

namespace {

thread_local std::int64_t heap_allocations = 0;

void* counted(std::size_t bytes) {
  ++heap_allocations;
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}

void* counted(std::size_t bytes, std::align_val_t alignment) {
  ++heap_allocations;
  const auto step = static_cast<std::size_t>(alignment);
  if (void* memory = std::aligned_alloc(step, (bytes + step - 1) / step * step)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// Those of the whole program, for which the standard lets one file define them.
void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, alignment);
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, alignment);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

/// Heap allocations of a warm training step, which must be those of any other.
template <class Forward>
std::int64_t allocations_of(std::vector<Parameter> parameters, const Forward& forward) {
  Adam adam(std::move(parameters));
  const Tensor tokens = Tensor::zeros({33, 4}, DType::i64);
  const auto step = [&] {
    const std::int64_t before = heap_allocations;
    adam.zero_grad();
    {
      Tape tape;
      tape.backward(cross_entropy(forward(tokens.rows(0, 32)), tokens.rows(1, 33)));
      adam.step();
    }
    return heap_allocations - before;
  };
  for (int i = 0; i < 4; ++i) step();
  const std::int64_t count = step();
  for (int i = 0; i < 4; ++i) CHECK(step() == count);
  return count;
}

std::vector<Parameter> joined(const std::vector<Module*>& parts) {
  std::vector<Parameter> all;
  for (Module* part : parts)
    for (const Parameter& p : part->parameters()) all.push_back(p);
  return all;
}

/// Heap allocations of a warm replayed step.
template <class Forward>
std::int64_t allocations_of_replay(std::vector<Parameter> parameters, const Forward& forward) {
  AdamW optimizer(std::move(parameters));
  TrainStep train(
      [&](std::span<const Tensor> in) -> std::vector<Tensor> {
        return {cross_entropy(forward(in[0]), in[1])};
      },
      optimizer, {.clip_norm = 1});
  const Tensor tokens = Tensor::zeros({33, 4}, DType::i64);
  const auto step = [&] {
    const std::int64_t before = heap_allocations;
    train({tokens.rows(0, 32), tokens.rows(1, 33)});
    return heap_allocations - before;
  };
  for (int i = 0; i < 4; ++i) step();
  const std::int64_t count = step();
  for (int i = 0; i < 4; ++i) CHECK(step() == count);
  return count;
}

struct LSTMModel {
  Generator g{1};
  Embedding embed{20, 16, g};
  LSTM lstm{{.input_size = 16, .hidden_size = 24, .num_layers = 2}, g};
  Linear head{24, 20, g};
  Tensor operator()(const Tensor& x) { return head(lstm(embed(x)).output); }
  std::vector<Module*> parts() { return {&embed, &lstm, &head}; }
};

struct TransformerModel {
  Generator g{1};
  Embedding embed{20, 32, g};
  TransformerEncoder blocks{{.d_model = 32, .nhead = 4, .num_layers = 2, .norm_first = true}, g};
  Linear head{32, 20, g};
  Tensor operator()(const Tensor& x) { return head(blocks(embed(x), {.causal = true}).output); }
  std::vector<Module*> parts() { return {&embed, &blocks, &head}; }
};

}  // namespace

// In f64 there is no oneDNN, which for every product makes a table of its operands on the heap: all
// that is counted would be ours.
TEMPLATE_TEST_CASE("a steady step, replayed, allocates nothing on the heap", "", LSTMModel,
                   TransformerModel) {
  TestType model;
  for (Module* part : model.parts()) part->to(DType::f64);
  const auto forward = [&](const Tensor& x) { return model(x); };
  CHECK(allocations_of_replay(joined(model.parts()), forward) == 0);
}

TEMPLATE_TEST_CASE("a steady step in f32 allocates on the heap what oneDNN does for its products",
                   "", LSTMModel, TransformerModel) {
  TestType model;
  const auto forward = [&](const Tensor& x) { return model(x); };
  const std::int64_t replayed = allocations_of_replay(joined(model.parts()), forward);
  const std::int64_t recorded = allocations_of(joined(model.parts()), forward);
  CAPTURE(replayed, recorded);
  CHECK(replayed <= 200);  // about five a product
  CHECK(recorded <= 800);  // and the tracing of scan
}

TEST_CASE("a step of a stream allocates nothing, on the heap or of buffers") {
  Generator g(1);
  for (const ModelKind kind :
       {ModelKind::rnn, ModelKind::lstm, ModelKind::gru, ModelKind::mingru, ModelKind::minlstm,
        ModelKind::mamba, ModelKind::rwkv, ModelKind::transformer}) {
    INFO(to_string(kind));
    const auto model = make_model(
        {.kind = kind, .vocabulary = 16, .embedding = 16, .hidden = 16, .layers = 2, .heads = 2},
        g);
    model->eval();
    Stream stream(*model, {.window = kind == ModelKind::transformer ? 8 : 0});
    for (const std::int64_t batch : {1, 4}) {
      CAPTURE(batch);
      const Tensor x = Tensor::zeros({batch}, DType::i64);
      Tensor y;
      for (int i = 0; i < 4; ++i) y = stream.step(x);
      const std::int64_t heap = heap_allocations, buffers = memory_stats().allocations;
      for (int i = 0; i < 20; ++i) y = stream.step(x);  // beyond the window
      CHECK(heap_allocations - heap == 0);
      CHECK(memory_stats().allocations - buffers == 0);
    }
  }
}

#endif
