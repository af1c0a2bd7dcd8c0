#pragma once

#include <unroll/layers/dropout.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/norm.h>
#include <unroll/layers/parallel_cell.h>

#include <memory>

namespace unroll {

// RWKV version 6, "Finch" (Peng et al., 2024, "Eagle and Finch: RWKV with Matrix-Valued States and
// Dynamic Recurrence"), with the names and initial values of its authors' code. Below, a shift is
// the step before, and lerp(a, b, m) = a + (b - a) m.

struct RWKVOptions {
  std::int64_t size = 0;
  std::int64_t heads = 1;            ///< of the time mix; they divide `size`
  std::int64_t mix_rank = 0;         ///< of the token shift's LoRA; 0: size / 16, 8 to 32
  std::int64_t decay_rank = 0;       ///< of the decay's LoRA; 0: twice mix_rank
  std::int64_t dim_feedforward = 0;  ///< of the channel mix; 0: 3.5 size
  /// Where the block stands: layers begin with other mixes and decays by their depth.
  int layer = 0, layers = 1;
  double dropout = 0;  ///< of each mix's output, in a block
};

/// The same with the sizes that 0 stands for; throws Error for sizes that make no layer.
RWKVOptions resolved(const RWKVOptions& options);

/// Time mixing. Of r, k, v, g and the decay d each has its own mix of x with its shift, which
/// depends on both (ddlerp, the data-dependent token shift):
///     s = lerp(x, shift, maa_x)      mixed_i = lerp(x, shift, maa_i + tanh(s A_i) B_i)
///     r, k, v, g = mixed_r W_r, ...  w = exp(-exp(decay + tanh(mixed_w A_d) B_d))
///     y = wkv6(r, k, v, w, u)        output = (silu(g) ln_x(y)) W_o, ln_x over each head's
///     channels
/// State {the last input [B, C], S [B, heads, C / heads, C / heads]}.
class RWKVTimeMix : public ParallelCell {
 public:
  Parameter time_maa_x, time_maa_w, time_maa_k, time_maa_v, time_maa_r, time_maa_g;  ///< [C]
  Parameter time_maa_w1, time_maa_w2;                  ///< [C, 5 R], [5, R, C]: A and B
  Parameter time_decay, time_decay_w1, time_decay_w2;  ///< [C], [C, R_d], [R_d, C]
  Parameter time_faaaa;                                ///< u [heads, C / heads]
  Linear receptance, key, value, gate, output;         ///< [C, C], without biases
  Parameter ln_weight, ln_bias;                        ///< ln_x.weight, ln_x.bias [C]

  explicit RWKVTimeMix(const RWKVOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override;
  std::vector<Gate> gates(const Tensor& x, const State& state) const override;  ///< w, [B, C]
  std::vector<Shape> state_shapes(std::int64_t batch) const override;
  std::int64_t input_size() const override { return options_.size; }
  std::int64_t output_size() const override { return options_.size; }
  std::string describe() const override;

 protected:
  Output parallel(const Tensor& x, const State& state, const Tensor& lengths,
                  Where where) const override;

 private:
  struct Projected {
    Tensor r, k, v, g, w;
  };
  Projected project(const Tensor& x, const Tensor& shift, Where where) const;
  Tensor finish(const Tensor& y, const Tensor& g, Where where) const;

  RWKVOptions options_;
};

/// Channel mixing: k = lerp(x, shift, maa_k) W_k, r = lerp(x, shift, maa_r) W_r,
/// output = sigmoid(r) (relu(k)^2 W_v). State {the last input [B, C]}.
class RWKVChannelMix : public ParallelCell {
 public:
  Parameter time_maa_k, time_maa_r;  ///< [C]
  Linear key, receptance, value;     ///< [F, C], [C, C], [C, F], without biases

  explicit RWKVChannelMix(const RWKVOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override;
  std::vector<Shape> state_shapes(std::int64_t batch) const override;
  std::int64_t input_size() const override { return options_.size; }
  std::int64_t output_size() const override { return options_.size; }
  std::string describe() const override;

 protected:
  Output parallel(const Tensor& x, const State& state, const Tensor& lengths,
                  Where where) const override;

 private:
  Tensor mix(const Tensor& x, const Tensor& shift, Where where) const;

  RWKVOptions options_;
};

/// x + att(ln1(x)), then x + ffn(ln2(x)). State {that of att, that of ffn}.
class RWKVBlock : public ParallelCell {
 public:
  LayerNorm ln1, ln2;
  RWKVTimeMix att;
  RWKVChannelMix ffn;

  explicit RWKVBlock(const RWKVOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override;
  std::vector<Gate> gates(const Tensor& x, const State& state) const override {
    return att.gates(ln1(x), state);
  }
  std::vector<Shape> state_shapes(std::int64_t batch) const override;
  std::int64_t input_size() const override { return att.input_size(); }
  std::int64_t output_size() const override { return att.output_size(); }
  std::string describe() const override { return "RWKVBlock"; }

 protected:
  Output parallel(const Tensor& x, const State& state, const Tensor& lengths,
                  Where where) const override;

 private:
  /// Both mixes by `run(mix, input, state)`.
  template <class Run>
  Output both(const Tensor& x, const State& state, const Run& run) const;

  std::unique_ptr<Dropout> dropout_;
};

}  // namespace unroll
