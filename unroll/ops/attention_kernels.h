#pragma once

#include <cstdint>

namespace unroll::detail {

/// The sizes of attention and the rules that hide keys: of T_q queries, query i is at position
/// i + T_k - T_q, so that the last one is beside the last key.
struct AttentionRules {
  std::int64_t batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, size = 0;
  bool causal = false;      ///< keys behind a query's position are hidden
  std::int64_t window = 0;  ///< and those `window` or more before it; 0: none
  double scale = 1;         ///< of scores
  double dropout = 0;       ///< of weights: number ((b H + h) T_q + i) T_k + j of a stream decides
  std::uint64_t seed = 0, first = 0;  ///< which stream, and where in it
};

/// Where [batch, heads, T, size] lies: elements from one to the next along each axis but the last,
/// which is contiguous.
template <class T>
struct HeadRows {
  T* data = nullptr;
  std::int64_t batch = 0, head = 0, time = 0;
  T* at(std::int64_t b, std::int64_t h) const { return data + b * batch + h * head; }
};

template <class T>
struct AttentionInputs {
  HeadRows<const T> q, k, v;
  const std::int64_t* lengths = nullptr;  ///< [batch]: how many keys there are, or null
  const T* mask = nullptr;                ///< 0 hides; or null
  std::int64_t mask_step[4] = {};         ///< along batch, head, query, key; 0: the same for all
};

/// out = softmax(scale q k^T) v, a tile of it at a time; log_sums [batch, heads, T_q] is the binary
/// logarithm of each query's sum, the largest number where it sees no key. (Dao,
/// "FlashAttention-2", 2023.)
void attend(const AttentionRules& rules, const AttentionInputs<float>& in, HeadRows<float> out,
            float* log_sums);
void attend(const AttentionRules& rules, const AttentionInputs<double>& in, HeadRows<double> out,
            double* log_sums);

/// The same for a query or a few, as streaming has them, where tiles would stay nearly empty:
/// vectors run along D. attend() comes here by itself.
void attend_few(const AttentionRules& rules, const AttentionInputs<float>& in, HeadRows<float> out,
                float* log_sums);
void attend_few(const AttentionRules& rules, const AttentionInputs<double>& in,
                HeadRows<double> out, double* log_sums);

/// Bytes that attend() and attend_backward() allocate for themselves, for all threads together.
/// `apart`: rows of keys, values and their gradients do not follow each other.
std::size_t attend_workspace(const AttentionRules& rules, bool apart, std::size_t element);
std::size_t attend_backward_workspace(const AttentionRules& rules, bool apart, std::size_t element);

/// What attend() gave, and the gradient of its output.
template <class T>
struct AttentionResults {
  HeadRows<const T> out, grad;
  const T* log_sums = nullptr;
};
template <class T>
struct AttentionGrads {
  HeadRows<T> q, k, v;
};

void attend_backward(const AttentionRules& rules, const AttentionInputs<float>& in,
                     const AttentionResults<float>& results, const AttentionGrads<float>& grads);
void attend_backward(const AttentionRules& rules, const AttentionInputs<double>& in,
                     const AttentionResults<double>& results, const AttentionGrads<double>& grads);

}  // namespace unroll::detail
