#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/check.h>
#include <unroll/ops/embedding.h>
#include <unroll/ops/samples.h>

#include <algorithm>
#include <cstring>

namespace unroll {
namespace {

// Adds the gradient's rows to the rows of the table they came from, in the order of the indices.
struct EmbeddingBackward : OpRecord<EmbeddingBackward> {
  std::int64_t rows_of_table;
  explicit EmbeddingBackward(std::int64_t size) : rows_of_table(size) {}

  const char* name() const override { return "embedding_backward"; }
  // in: gradient [..., D], indices [...]
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {{rows_of_table, in[0].size(-1)}, in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    check_indices(name(), in[1], rows_of_table, "rows of the table");
    with_float(name(), in[0].dtype(), [&](auto zero) {
      with_index(name(), in[1].dtype(), [&](auto i) {
        using T = decltype(zero);
        scatter(in[0].ptr<T>(), in[1].ptr<decltype(i)>(), in[1].numel(), in[0].size(-1),
                out[0].mutable_ptr<T>());
      });
    });
  }
  template <class T, class I>
  void scatter(const T* g, const I* indices, std::int64_t count, std::int64_t width, T* to) const {
    constexpr std::int64_t piece = 32768;
    const std::int64_t size = rows_of_table * width;
    parallel_for(size, piece, 6.0 * static_cast<double>(size),
                 [&](std::int64_t begin, std::int64_t end) {
                   std::memset(to + begin, 0, static_cast<std::size_t>(end - begin) * sizeof(T));
                 });
    // Threads share the columns, so that each row's sum has one order.
    parallel_for(width, 64, 10.0 * static_cast<double>(count * width),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t k = 0; k < count; ++k) {
                     const T* from = g + k * width;
                     T* into = to + indices[k] * width;
                     for (std::int64_t j = begin; j < end; ++j) into[j] += from[j];
                   }
                 });
  }
  Keep keep() const override { return {.inputs = 0b10}; }
  void vjp(Vjp& v) const override {
    if (v.needed[0]) v.result[0] = embedding(v.grads[0], v.inputs[1]);
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    return stacked[0] && stacked[1] && in[1].rank() > 0 ? Rows::sum : Rows::none;
  }
};

struct Embedding : OpRecord<Embedding> {
  const char* name() const override { return "embedding"; }
  void infer(Args in, std::span<Spec> out) const override {
    if (in[0].rank() != 2)
      fail_shape(name(), fmt::format("table {}", to_string(in[0].shape())), "It must be [V, D]");
    const Shape& indices = in[1].shape();
    out[0] = {indices.inserted(indices.rank(), in[0].size(1)), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    const std::int64_t width = in[0].size(1), count = in[1].numel();
    check_indices(name(), in[1], in[0].size(0), "rows of the table");
    const std::int64_t bytes = width * size_of(in[0].dtype());
    with_index(name(), in[1].dtype(), [&](auto i) {
      const auto* indices = in[1].ptr<decltype(i)>();
      const std::byte* from = in[0].bytes();
      std::byte* to = out[0].bytes();
      parallel_for(count, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, width)),
                   10.0 * static_cast<double>(count * width),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t k = begin; k < end; ++k)
                       std::memcpy(to + k * bytes, from + indices[k] * bytes,
                                   static_cast<std::size_t>(bytes));
                   });
    });
  }
  Keep keep() const override { return {.inputs = 0b10}; }
  void vjp(Vjp& v) const override {
    if (v.needed[0])
      v.result[0] = apply(EmbeddingBackward(v.inputs[0].size(0)), {&v.grads[0], &v.inputs[1]},
                          Where::current());
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    return !stacked[0] && stacked[1] && in[1].rank() > 0 ? Rows::map : Rows::none;
  }
};

}  // namespace

Tensor embedding(const Tensor& table, const Tensor& indices, Where where) {
  return apply(Embedding{}, {&table, &indices}, where);
}

namespace {

OpSample sample(const Shape& table, const Shape& shape, DType dtype) {
  return {.inputs =
              [=](Generator& g) {
                Tensor indices = Tensor::empty(shape, DType::i64);
                for (std::int64_t& i : indices.mutable_data<std::int64_t>()) i = g.below(table[0]);
                return std::vector{g.normal(table, 0, 1, DType::f64), indices.to(dtype)};
              },
          .call = [](std::span<const Tensor> in) { return std::vector{embedding(in[0], in[1])}; }};
}

const RegisterOp row{{
    .name = "embedding",
    .signature = "embedding(table, indices)",
    .summary = "Rows of a table by index",
    .samples = {sample({5, 3}, {7}, DType::i64), sample({4, 17}, {2, 3}, DType::i32),
                sample({3, 2}, {}, DType::i64), sample({6, 2}, {2, 2, 2}, DType::i64)},
    .wrong = {[] { embedding(Tensor::zeros({3}), Tensor::zeros({1}, DType::i64)); },
              [] {
                embedding(Tensor::zeros({3, 2}), Tensor::full({1}, 3, DType::i64));
              },
              [] {
                embedding(Tensor::zeros({3, 2}), Tensor::full({1}, -1, DType::i32));
              }},
}};

}  // namespace
}  // namespace unroll
