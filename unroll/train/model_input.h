#pragma once

#include <unroll/layers/embedding.h>
#include <unroll/layers/linear.h>
#include <unroll/train/sequence_model.h>

#include <memory>

namespace unroll::detail {

// What all models share.

inline std::int64_t outputs_of(const ModelConfig& c) {
  return c.outputs > 0 ? c.outputs : c.vocabulary;
}

/// Throws Error where options of attention are given.
void refuse_window(const StreamOptions& options, const std::string& model);

/// Tokens through a table, real features through a matrix.
struct Input {
  std::unique_ptr<Embedding> table;
  std::unique_ptr<Linear> matrix;

  Input(const ModelConfig& c, std::int64_t size, GeneratorRef& generator) {
    if (c.vocabulary > 0) {
      table = std::make_unique<Embedding>(c.vocabulary, size, generator);
    } else {
      matrix = std::make_unique<Linear>(c.features, size, generator);
    }
  }
  Module& module() { return table ? static_cast<Module&>(*table) : *matrix; }
  Tensor operator()(const Tensor& x) const { return table ? (*table)(x) : (*matrix)(x); }
};

}  // namespace unroll::detail
