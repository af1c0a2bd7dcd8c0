#include <unroll/graph/threads.h>
#include <unroll/ops/attention_block.h>
#include <unroll/ops/attention_rows.h>

namespace unroll::detail {
namespace {

template <class T>
void run(const AttentionRules& r, const AttentionInputs<T>& in, HeadRows<T> out, T* log_sums) {
  const std::int64_t group = r.heads / r.kv_heads;
  const double work =
      static_cast<double>(r.batch * r.heads * r.queries * r.keys) * static_cast<double>(r.size) / 4;
  parallel_for(r.batch * r.heads, 1, work, [&](std::int64_t item, std::int64_t) {
    const std::int64_t b = item / r.heads, h = item % r.heads;
    Tensor memory = Tensor::empty({2 * r.keys}, dtype_of<T>());
    T *scores = memory.mutable_ptr<T>(), *factors = scores + r.keys;
    const T *k = in.k.at(b, h / group), *v = in.v.at(b, h / group);
    for (std::int64_t i = 0; i < r.queries; ++i) {
      const QueryBlock<T> one{r, in, b, h, i, 1};
      const std::int64_t begin = one.begin(), keys = std::max<std::int64_t>(0, one.end() - begin);
      score(keys, r.size, in.q.at(b, h) + i * in.q.time, k + begin * in.k.time, in.k.time,
            static_cast<T>(r.scale * log2_e), scores);
      one.hide_masked(begin, begin + keys, scores, 1);
      const auto [sum, top] = weigh(keys, scores);
      if (r.dropout > 0) {
        one.keep(begin, begin + keys, factors, 1);
        for (std::int64_t j = 0; j < keys; ++j) scores[j] *= factors[j];
      }
      const bool sees = sum != 0;
      mix(sees ? keys : 0, r.size, scores, v + begin * in.v.time, in.v.time, sees ? 1 / sum : T(0),
          out.at(b, h) + i * out.time);
      log_sums[item * r.queries + i] =
          sees ? top + static_cast<T>(std::log2(sum)) : std::numeric_limits<T>::max();
    }
  });
}

}  // namespace

void attend_few(const AttentionRules& rules, const AttentionInputs<float>& in, HeadRows<float> out,
                float* log_sums) {
  run(rules, in, out, log_sums);
}

void attend_few(const AttentionRules& rules, const AttentionInputs<double>& in,
                HeadRows<double> out, double* log_sums) {
  run(rules, in, out, log_sums);
}

}  // namespace unroll::detail
