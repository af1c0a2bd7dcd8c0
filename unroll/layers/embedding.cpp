#include <fmt/format.h>
#include <unroll/layers/embedding.h>
#include <unroll/ops/embedding.h>

namespace unroll {

Embedding::Embedding(const EmbeddingOptions& options, GeneratorRef generator) {
  if (options.num_embeddings < 1 || options.embedding_dim < 1)
    fail("Embedding", fmt::format("sizes must be positive, got {} x {}", options.num_embeddings,
                                  options.embedding_dim));
  weight = Parameter(generator->normal({options.num_embeddings, options.embedding_dim}, 0.0, 1.0));
  add("weight", weight);
}

Tensor Embedding::operator()(const Tensor& indices, Where where) const {
  return embedding(weight, indices, where);
}

std::string Embedding::describe() const {
  return fmt::format("Embedding({}, {})", weight.shape()[0], weight.shape()[1]);
}

}  // namespace unroll
