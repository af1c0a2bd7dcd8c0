#include <fmt/format.h>
#include <unroll/graph/kernel.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/attention_rows.h>
#include <unroll/ops/attention_step.h>
#include <unroll/ops/table.h>

#include <cmath>
#include <cstring>

namespace unroll {
namespace {

struct Sizes {
  std::int64_t batch = 0, rows = 0, width = 0, heads = 0, sinks = 0;
  std::int64_t size() const { return width / heads; }
  /// Of each stream: its query as it is turned for the window and for the sinks, and scores.
  std::int64_t scratch() const { return 2 * width + heads * rows; }
};

// Columns i and i + D/2 of each head, by the angle of pair i.
template <class T>
void turn_heads(const Sizes& s, const T* from, const T* angles, T* to) {
  const std::int64_t size = s.size(), half = size / 2;
  for (std::int64_t h = 0; h < s.heads; ++h, from += size, to += size)
    for (std::int64_t i = 0; i < half; ++i) {
      const T sine = angles[2 * i], cosine = angles[2 * i + 1], a = from[i], b = from[half + i];
      to[i] = a * cosine - b * sine;
      to[half + i] = b * cosine + a * sine;
    }
}

// angles, sink_angles: null where nothing is turned.
template <class T>
void attend_step(const Sizes& s, T* cache, const T* qkv, const std::int64_t* position,
                 const T* angles, const T* sink_angles, T* out, T* scratch) {
  const std::int64_t size = s.size(), step = 2 * s.width;
  const auto scale = static_cast<T>(detail::log2_e / std::sqrt(static_cast<double>(size)));
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const T* const from = qkv + b * 3 * s.width;
    T* const query = scratch + b * s.scratch();
    const std::int64_t p = position[b];
    if (p < 0) fail("attention_step", fmt::format("position {} of stream {} is below 0", p, b));
    const std::int64_t row = p < s.rows ? p : s.sinks + (p - s.sinks) % (s.rows - s.sinks);
    T* const key = cache + (b * s.rows + row) * step;
    if (angles != nullptr) {
      turn_heads(s, from, angles + b * size, query);
      turn_heads(s, from, sink_angles + b * size, query + s.width);
      turn_heads(s, from + s.width, angles + b * size, key);
    } else {
      std::copy_n(from, s.width, query);
      std::copy_n(from, s.width, query + s.width);
      std::copy_n(from + s.width, s.width, key);
    }
    std::copy_n(from + 2 * s.width, s.width, key + s.width);
  }
  const auto work = 4.0 * static_cast<double>(s.batch * s.rows * s.width);
  parallel_for(s.batch * s.heads, 1, work, [&](std::int64_t item, std::int64_t) {
    const std::int64_t b = item / s.heads, h = item % s.heads;
    const std::int64_t keys = std::min(position[b] + 1, s.rows), sinks = std::min(s.sinks, keys);
    T* const query = scratch + b * s.scratch() + h * size;
    T* const scores = scratch + b * s.scratch() + 2 * s.width + h * s.rows;
    const T* const k = cache + b * s.rows * step + h * size;
    if (sinks > 0) detail::score(sinks, size, query + s.width, k, step, scale, scores);
    if (keys > sinks)
      detail::score(keys - sinks, size, query, k + sinks * step, step, scale, scores + sinks);
    const T sum = detail::weigh(keys, scores).first;
    detail::mix(keys, size, scores, k + s.width, step, 1 / sum, out + b * s.width + h * size);
  });
}

template <class T>
class AttentionStepKernel : public Kernel {
 public:
  AttentionStepKernel(const Sizes& sizes, bool turned)
      : sizes_(sizes),
        turned_(turned),
        scratch_(Tensor::empty({sizes.batch * sizes.scratch()}, dtype_of<T>())) {}
  void run(const std::byte* const* in, std::byte* const* out) const override {
    const auto at = [&](int i) { return reinterpret_cast<const T*>(in[i]); };
    if (out[0] != in[0])
      std::memcpy(
          out[0], in[0],
          static_cast<std::size_t>(sizes_.batch * sizes_.rows * 2 * sizes_.width) * sizeof(T));
    attend_step(sizes_, reinterpret_cast<T*>(out[0]), at(1),
                reinterpret_cast<const std::int64_t*>(in[2]), turned_ ? at(3) : nullptr,
                turned_ ? at(4) : nullptr, reinterpret_cast<T*>(out[1]), scratch_.mutable_ptr<T>());
  }

 private:
  Sizes sizes_;
  bool turned_;
  mutable Tensor scratch_;
};

// in: cache, qkv, position, and the angles or none.
struct AttentionStep : OpRecord<AttentionStep> {
  std::int64_t heads, sinks;
  AttentionStep(std::int64_t h, std::int64_t s) : heads(h), sinks(s) {}

  const char* name() const override { return "attention_step"; }
  int outputs() const override { return 2; }

  void infer(Args in, std::span<Spec> out) const override {
    const Tensor &cache = in[0], &qkv = in[1], &position = in[2];
    const bool fits = cache.rank() == 3 && qkv.rank() == 2 && position.rank() == 1 &&
                      cache.size(0) == qkv.size(0) && position.size(0) == qkv.size(0) &&
                      cache.size(2) * 3 == qkv.size(1) * 2 && heads > 0 &&
                      cache.size(2) % (2 * heads) == 0 && cache.dtype() == qkv.dtype() &&
                      position.dtype() == DType::i64;
    if (!fits)
      fail_shape(name(),
                 fmt::format("cache {}, qkv {} and position {} do not fit for {} heads",
                             to_string(cache), to_string(qkv), to_string(position), heads),
                 "They are [B, R, 2E], [B, 3E] and i64 [B]");
    if (sinks < 0 || sinks >= cache.size(1))
      fail(name(), fmt::format("{} sinks in a cache of {} rows", sinks, cache.size(1)));
    const std::int64_t size = cache.size(2) / 2 / heads;
    for (std::size_t i = 3; i < in.size(); ++i)
      if (in[i].shape() != Shape{qkv.size(0), size} || in[i].dtype() != qkv.dtype() ||
          size % 2 != 0)
        fail_shape(name(),
                   fmt::format("angles {} for {} heads of {}", to_string(in[i]), heads, size));
    out[0] = cache.spec();
    out[1] = {{qkv.size(0), cache.size(2) / 2}, qkv.dtype()};
  }

  Sizes sizes(Args in) const {
    return {in[0].size(0), in[0].size(1), in[0].size(2) / 2, heads, sinks};
  }

  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      const AttentionStepKernel<decltype(zero)> kernel(sizes(in), in.size() > 3);
      std::array<const std::byte*, 5> from{};
      for (std::size_t i = 0; i < in.size(); ++i) from[i] = in[i].bytes();
      const std::array<std::byte*, 2> to{out[0].bytes(), out[1].bytes()};
      kernel.run(from.data(), to.data());
    });
  }
  const Kernel* bind(Args in, std::span<const bool>, Arena& arena) const override {
    return with_float(name(), in[0].dtype(), [&](auto zero) -> const Kernel* {
      return arena.emplace<AttentionStepKernel<decltype(zero)>>(sizes(in), in.size() > 3);
    });
  }
  std::uint32_t in_place(Args, std::size_t output) const override { return output == 0 ? 0b1 : 0; }
  Keep keep() const override { return {.inputs = 0}; }
  bool differentiable() const override { return false; }
};

}  // namespace

AttentionStepOutput attention_step(const Tensor& qkv, const Tensor& cache, const Tensor& position,
                                   const AttentionStepOptions& o, Where where) {
  const AttentionStep op(o.heads, o.sinks);
  const Tensor& sink_angles = o.sink_angles.defined() ? o.sink_angles : o.angles;
  const std::array<const Tensor*, 5> in{&cache, &qkv, &position, &o.angles, &sink_angles};
  std::array<Tensor, 2> out;
  apply(op, Args(std::span(in.data(), o.angles.defined() ? 5u : 3u)), out, where);
  return {out[1], out[0]};
}

namespace {

// Two streams of width 8: qkv, a cache of 4 rows, and angles for the window and the sinks.
OpSample sample(std::vector<std::int64_t> positions, AttentionStepOptions options, bool turned) {
  return {.inputs =
              [=](Generator& g) {
                const auto normal = [&](const Shape& shape) {
                  return g.normal(shape, 0, 1, DType::f64);
                };
                std::vector<Tensor> in{normal({2, 24}), normal({2, 4, 16}),
                                       Tensor::from(positions, {2})};
                if (!turned) return in;
                for (int i = 0; i < 2; ++i) {  // a sine beside its cosine, pair by pair
                  Tensor angles = g.uniform({2, 4}, -3, 3, DType::f64);
                  const std::span<double> values = angles.mutable_data<double>();
                  for (std::size_t k = 0; k < values.size(); k += 2) {
                    values[k + 1] = std::cos(values[k]);
                    values[k] = std::sin(values[k]);
                  }
                  in.push_back(angles);
                }
                return in;
              },
          .call = [=](std::span<const Tensor> in) -> std::vector<Tensor> {
            AttentionStepOptions o = options;
            if (in.size() > 3) o.angles = in[3];
            if (in.size() > 4) o.sink_angles = in[4];
            const AttentionStepOutput result = attention_step(in[0], in[1], in[2], o);
            return {result.output, result.cache};
          }};
}

const RegisterOp row{{
    .name = "attention_step",
    .signature = "attention_step(qkv, cache, position, {.heads, .sinks, .angles, .sink_angles})",
    .summary = "One step of causal self-attention for streams, through a cache of fixed size",
    .samples = {sample({0, 2}, {.heads = 2}, false), sample({3, 9}, {.heads = 1}, false),
                sample({1, 11}, {.heads = 4, .sinks = 2}, false),
                sample({2, 6}, {.heads = 2, .sinks = 1}, true)},
    .wrong = {[] {
                attention_step(Tensor::zeros({2, 24}), Tensor::zeros({2, 4, 12}),
                               Tensor::zeros({2}, DType::i64), {.heads = 2});
              },
              [] {
                attention_step(Tensor::zeros({2, 24}), Tensor::zeros({2, 4, 16}),
                               Tensor::zeros({3}, DType::i64), {.heads = 2});
              },
              [] {
                attention_step(Tensor::zeros({2, 24}), Tensor::zeros({2, 4, 16}),
                               Tensor::zeros({2}, DType::i64), {.heads = 3});
              },
              [] {
                attention_step(Tensor::zeros({2, 24}), Tensor::zeros({2, 4, 16}),
                               Tensor::zeros({2}, DType::i64),
                               {.heads = 2, .angles = Tensor::zeros({2, 8})});
              }},
    .differentiable = false,
}};

}  // namespace

}  // namespace unroll
