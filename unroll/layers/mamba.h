#pragma once

#include <unroll/layers/dropout.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/norm.h>
#include <unroll/layers/parallel_cell.h>

#include <memory>

namespace unroll {

struct MambaOptions {
  std::int64_t d_model = 0;
  std::int64_t d_state = 16;
  std::int64_t d_conv = 4;
  std::int64_t expand = 2;   ///< channels inside, in multiples of d_model
  std::int64_t dt_rank = 0;  ///< 0: d_model / 16, rounded up
  double dt_min = 1e-3, dt_max = 0.1, dt_floor = 1e-4;  ///< initial step sizes
  bool bias = false;                                    ///< of in_proj and out_proj
  double dropout = 0;                                   ///< of what a block adds
};

/// The selective state-space layer (Gu, Dao, 2023, "Mamba"), with the names, layouts and initial
/// values of its authors' code. With D = expand d_model channels, N = d_state, R = dt_rank:
///     x, z = in_proj(u)                     x = silu(conv1d(x))
///     dt, B, C = x_proj(x)                  dt = softplus(dt_proj(dt))
///     h = exp(dt A) h + dt B x              A = -exp(A_log), of every channel and state
///     y = out_proj((C h + D x) silu(z))
/// A_log starts at log(1..N), D at 1, dt_proj's bias so that step sizes are spread evenly in the
/// logarithm from dt_min to dt_max. State {conv window [B, d_conv - 1, D], h [B, N, D]}.
class Mamba : public ParallelCell {
 public:
  Linear in_proj;                    ///< [2 D, d_model]: x, then z
  Parameter conv_weight, conv_bias;  ///< conv1d.weight [D, 1, d_conv], conv1d.bias [D]
  Linear x_proj;                     ///< [R + 2 N, D], without bias
  Linear dt_proj;                    ///< [D, R]
  Parameter A_log, D;                ///< [D, N], [D]
  Linear out_proj;                   ///< [d_model, D]

  explicit Mamba(const MambaOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override;
  /// exp(dt A) of every state and channel, [B, N D], in the order of the state.
  std::vector<Gate> gates(const Tensor& x, const State& state) const override;
  std::vector<Shape> state_shapes(std::int64_t batch) const override;
  std::int64_t input_size() const override { return options_.d_model; }
  std::int64_t output_size() const override { return options_.d_model; }
  std::string describe() const override;

 protected:
  Output parallel(const Tensor& x, const State& state, const Tensor& lengths,
                  Where where) const override;

 private:
  struct Selected {
    Tensor dt, b, c;
  };
  Selected select_by(const Tensor& x, Where where) const;
  Tensor decay(const Tensor& dt) const;
  Tensor gate(const Tensor& y, const Tensor& x, const Tensor& z, Where where) const;
  std::int64_t channels() const { return options_.expand * options_.d_model; }

  MambaOptions options_;
};

/// x + mixer(norm(x)), with an RMS norm: what Mamba models are stacks of.
class MambaBlock : public ParallelCell {
 public:
  RMSNorm norm;
  Mamba mixer;

  explicit MambaBlock(const MambaOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override;
  std::vector<Gate> gates(const Tensor& x, const State& state) const override {
    return mixer.gates(norm(x), state);
  }
  std::vector<Shape> state_shapes(std::int64_t batch) const override {
    return mixer.state_shapes(batch);
  }
  std::int64_t input_size() const override { return mixer.input_size(); }
  std::int64_t output_size() const override { return mixer.output_size(); }
  std::string describe() const override { return "MambaBlock"; }

 protected:
  Output parallel(const Tensor& x, const State& state, const Tensor& lengths,
                  Where where) const override;

 private:
  Output around(const Tensor& x, Output mixed) const;

  std::unique_ptr<Dropout> dropout_;
};

}  // namespace unroll
