#pragma once

#include <unroll/layers/linear.h>

#include <cstdint>
#include <string>

namespace unroll {

/// How well a place of the memory fits a query.
enum class AttentionScore : std::uint8_t {
  additive,  ///< v^T tanh(W q + U m), Bahdanau, Cho, Bengio, 2015
  general,   ///< q^T W m, Luong, Pham, Manning, 2015
  dot,       ///< q^T m, ibid.; query and memory are of one size
};

const char* to_string(AttentionScore score);
/// Throws Error for an unknown name, listing the known ones.
AttentionScore attention_score(const std::string& name);

struct DecoderAttentionOptions {
  std::int64_t query_size = 0;
  std::int64_t memory_size = 0;
  std::int64_t attention_size = 0;  ///< additive: units of the tanh; 0: as the query
  AttentionScore score = AttentionScore::additive;
};

/// One query a sequence at a time over a memory: what a recurrent decoder looks at. What depends on
/// the memory alone, keys(), is computed once. Parameters: query.weight and energy.weight
/// (additive), key.weight (additive and general).
class DecoderAttention : public Module {
 public:
  explicit DecoderAttention(const DecoderAttentionOptions& options, GeneratorRef generator = {});

  struct Attended {
    Tensor context;  ///< [B, memory_size]
    Tensor weights;  ///< [B, S]
  };

  /// memory [B, S, memory_size] -> [B, S, attention_size] (additive), [B, S, query_size] (general),
  /// or the memory itself (dot).
  Tensor keys(const Tensor& memory, Where where = Where::current()) const;
  /// query [B, query_size], keys as above, memory [B, S, memory_size], mask [B, 1, S] (undefined:
  /// all is seen; of lengths see length_mask()) -> the mean of the memory, weighted by the softmax
  /// of the scores; 0 where a row sees nothing.
  Attended operator()(const Tensor& query, const Tensor& keys, const Tensor& memory,
                      const Tensor& mask = {}, Where where = Where::current()) const;
  std::string describe() const override;

 private:
  DecoderAttentionOptions options_;
  Linear query_, key_, energy_;
};

}  // namespace unroll
