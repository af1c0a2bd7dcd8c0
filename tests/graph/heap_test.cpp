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

std::vector<Parameter> joined(std::initializer_list<Module*> parts) {
  std::vector<Parameter> all;
  for (Module* part : parts)
    for (const Parameter& p : part->parameters()) all.push_back(p);
  return all;
}

}  // namespace

TEST_CASE("a steady training step of an LSTM allocates little on the heap") {
  Generator g(1);
  Embedding embed(20, 16, g);
  LSTM lstm({.input_size = 16, .hidden_size = 24}, g);
  Linear head(24, 20, g);
  const std::int64_t count = allocations_of(
      joined({&embed, &lstm, &head}), [&](const Tensor& x) { return head(lstm(embed(x)).output); });
  CAPTURE(count);
  // Two thirds are oneDNN's, about five a product and the packing; the rest is scan's tracing.
  CHECK(count <= 700);
}

TEST_CASE("a steady training step of a Transformer allocates little on the heap") {
  Generator g(1);
  Embedding embed(20, 32, g);
  TransformerEncoder blocks({.d_model = 32, .nhead = 4, .num_layers = 2, .norm_first = true}, g);
  Linear head(32, 20, g);
  const std::int64_t count = allocations_of(joined({&embed, &blocks, &head}), [&](const Tensor& x) {
    return head(blocks(embed(x), {.causal = true}).output);
  });
  CAPTURE(count);
  CHECK(count <= 200);  // all but a handful are oneDNN's
}

#endif
