#pragma once

#include <unroll/layers/dropout.h>
#include <unroll/layers/linear.h>
#include <unroll/ops/scan.h>

#include <optional>

namespace unroll {

struct MultiHeadAttentionOptions {
  std::int64_t embed_dim = 0;
  std::int64_t num_heads = 1;
  /// Heads of keys and values, each of which serves num_heads / kv_heads heads of queries that
  /// follow each other (Ainslie et al., "GQA", 2023; 1: Shazeer's multi-query attention, 2019);
  /// 0: as many as num_heads.
  std::int64_t kv_heads = 0;
  double dropout = 0;  ///< of attention weights
  bool bias = true;
  bool rotary = false;  ///< rotate queries and keys by position (self-attention)
  bool batch_first = false;
};

struct AttentionCall {
  Tensor memory = {};  ///< keys and values come from here (cross-attention); undefined: from x
  /// In place of memory: what keys_and_values() made of it, [T_k, B, 2K], for many calls.
  Tensor projected = {};
  bool causal = false;
  std::int64_t window = 0;  ///< with causal: the last keys alone that a query sees; 0: all
  Tensor lengths = {};      ///< [B] i64: keys behind a row's length are hidden
  Tensor mask = {};         ///< 1 where a key may be seen; broadcasts to [B, heads, T_q, T_k]
  /// {what earlier steps gave back}, for streaming; what comes back has x's too.
  State cache = {};
  /// The cache has room: of [R, B, 2K] so many rows are those of earlier steps, and x's are written
  /// behind them, into the caller's memory. Not on a tape, which needs every step's own.
  std::optional<std::int64_t> past = {};
  bool need_weights = false;
};

struct MultiHeadAttentionOutput {
  Tensor output;   ///< as x
  Tensor weights;  ///< [B, heads, T_q, T_k] where asked for
  /// {[T, B, 2K]}: keys beside values, those of the cache first. While training there may be
  /// columns of no use before them.
  State cache;
};

/// What a stream's step knows of its place; see attention_step().
struct StreamPlace {
  Tensor position;  ///< [B] i64
  std::int64_t sinks = 0;
  Tensor angles = {}, sink_angles = {};  ///< [B, embed_dim / num_heads], for rotary
};

/// Vaswani et al., 2017, 3.2.2. Parameters have PyTorch's names: in_proj_weight [E + 2K, E]
/// (queries, keys, values), in_proj_bias, out_proj.weight, out_proj.bias. K, the width of keys and
/// of values, is E kv_heads / num_heads: E unless there are fewer heads of them.
class MultiHeadAttention : public Module {
 public:
  Parameter in_proj_weight, in_proj_bias;
  Linear out_proj;

  explicit MultiHeadAttention(const MultiHeadAttentionOptions& options,
                              GeneratorRef generator = {});

  /// x [T, B, E] (or [B, T, E] where batch_first) -> output of the same shape.
  MultiHeadAttentionOutput operator()(const Tensor& x, const AttentionCall& call = {},
                                      Where where = Where::current());
  /// What cross-attention needs of a memory [T_k, B, E] (or [B, T_k, E] where batch_first), made
  /// once for all queries to come: [T_k, B, 2K], keys beside values. `past` steps of the memory
  /// went before (rotary). Throws ShapeError for a memory of another shape.
  Tensor keys_and_values(const Tensor& memory, std::int64_t past = 0,
                         Where where = Where::current()) const;
  /// One step of causal self-attention: x [B, E] and {cache [B, R, 2E]} -> the same. Throws Error
  /// where there are fewer heads of keys and values than of queries.
  Output step(const Tensor& x, const State& cache, const StreamPlace& place,
              Where where = Where::current()) const;
  std::string describe() const override;

 private:
  /// K: of the keys, and of the values.
  std::int64_t key_width() const {
    return options_.embed_dim / options_.num_heads * options_.kv_heads;
  }
  Tensor rotated(const Tensor& x, std::int64_t heads, std::int64_t past, Where where) const;
  Tensor in_proj(const Tensor& x, std::int64_t begin, std::int64_t end, std::int64_t past,
                 Where where) const;

  MultiHeadAttentionOptions options_;
  Generator generator_;
};

}  // namespace unroll
