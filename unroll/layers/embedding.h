#pragma once

#include <unroll/layers/module.h>

namespace unroll {

struct EmbeddingOptions {
  std::int64_t num_embeddings = 0;
  std::int64_t embedding_dim = 0;
};

/// A table of vectors, looked up by index; weight [num, dim] starts normal(0, 1).
class Embedding : public Module {
 public:
  Parameter weight;

  explicit Embedding(const EmbeddingOptions& options, GeneratorRef generator = {});
  Embedding(std::int64_t num, std::int64_t dim, GeneratorRef generator = {})
      : Embedding(EmbeddingOptions{num, dim}, generator) {}

  /// indices [...] i64 or i32 -> [..., dim]. Throws Error for an index outside the table.
  Tensor operator()(const Tensor& indices, Where where = Where::current()) const;
  std::string describe() const override;
};

}  // namespace unroll
