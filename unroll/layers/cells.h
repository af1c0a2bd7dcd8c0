#pragma once

#include <unroll/layers/module.h>
#include <unroll/ops/scan.h>

#include <limits>

namespace unroll {

/// What regularisation puts into one step of a cell; undefined tensors change nothing.
struct StepMasks {
  Tensor weight_hh = {};  ///< in place of the cell's own
  Tensor hidden = {};     ///< [B, out], a factor of h on its way into the product
  Tensor update = {};     ///< [B, hidden], a factor of what a gated cell takes in (g or n)
};

/// One gate of a step behind its nonlinearity, [B, hidden], or a candidate for the new state.
struct Gate {
  const char* name;
  Tensor value;
  bool keeps = false;  ///< the share of the old state that stays: an LSTM's f, a GRU's z, a decay
};

/// One step of a recurrent layer. A user's cell derives from this, or is any callable
/// (x, state) -> Output; all go through the same scan().
class RecurrentCell : public Module {
 public:
  /// x [B, input], state as initial_state() has it -> output [B, out] and the next state.
  virtual Output operator()(const Tensor& x, const State& state) const = 0;
  /// The same step with masks. Throws Error for a mask that the cell has no place for, which for a
  /// cell that does not say otherwise is any.
  virtual Output masked(const Tensor& x, const State& state, const StepMasks& masks) const;
  /// What the gates of this step are, for looking inside; none for a cell without gates.
  virtual std::vector<Gate> gates(const Tensor& /*x*/, const State& /*state*/) const { return {}; }
  /// Of h in the product; undefined for a cell that has no such weight.
  virtual Parameter recurrent_weight() const { return {}; }
  /// Zeros.
  virtual State initial_state(std::int64_t batch, DType dtype) const = 0;
  virtual std::int64_t output_size() const = 0;
};

struct RNNCellOptions {
  std::int64_t input_size = 0;
  std::int64_t hidden_size = 0;
  bool relu = false;  ///< relu in place of tanh
  bool bias = true;
};

/// h' = tanh(W_ih x + b_ih + W_hh h + b_hh) (Elman, 1990).
class RNNCell : public RecurrentCell {
 public:
  Parameter weight_ih, weight_hh, bias_ih, bias_hh;
  explicit RNNCell(const RNNCellOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override {
    return masked(x, state, {});
  }
  Output masked(const Tensor& x, const State& state, const StepMasks& masks) const override;
  Parameter recurrent_weight() const override { return weight_hh; }
  State initial_state(std::int64_t batch, DType dtype) const override;
  std::int64_t output_size() const override { return options_.hidden_size; }
  std::string describe() const override;

 private:
  RNNCellOptions options_;
};

struct LSTMCellOptions {
  std::int64_t input_size = 0;
  std::int64_t hidden_size = 0;
  bool bias = true;
  /// 0: h has hidden_size; else h is projected to this size (Sak, Senior, Beaufays, 2014).
  std::int64_t proj_size = 0;
  /// Initial bias of the forget gate, in b_ih alone, so that it is not counted twice (Jozefowicz
  /// et al., 2015, advise 1). NaN: uniform like the rest, as in PyTorch.
  double forget_bias = std::numeric_limits<double>::quiet_NaN();
  /// Normalises the two products and c', see below.
  bool layer_norm = false;
};

/// c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c'), gates in PyTorch's order
/// i, f, g, o (Hochreiter, Schmidhuber, 1997; forget gate: Gers et al., 2000). State {h, c}.
///
/// With layer_norm (Ba, Kiros, Hinton, "Layer normalization", 2016, equations 20 to 22) the gates
/// are LN(W_ih x) * norm_ih + LN(W_hh h) * norm_hh + b, where b = b_ih + b_hh stands for both
/// norms' shifts too, and h' = sigmoid(o) tanh(LN(c') * norm_c + norm_c_bias).
class LSTMCell : public RecurrentCell {
 public:
  Parameter weight_ih, weight_hh, bias_ih, bias_hh, weight_hr;
  Parameter norm_ih, norm_hh, norm_c, norm_c_bias;  ///< [4H], [4H], [H], [H], with layer_norm only
  explicit LSTMCell(const LSTMCellOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override {
    return masked(x, state, {});
  }
  Output masked(const Tensor& x, const State& state, const StepMasks& masks) const override;
  std::vector<Gate> gates(const Tensor& x, const State& state) const override;  ///< i, f, g, o
  Parameter recurrent_weight() const override { return weight_hh; }
  State initial_state(std::int64_t batch, DType dtype) const override;
  std::int64_t output_size() const override {
    return options_.proj_size > 0 ? options_.proj_size : options_.hidden_size;
  }
  std::string describe() const override;

 private:
  Tensor sums(const Tensor& x, const Tensor& h, const Tensor& weight) const;

  LSTMCellOptions options_;
};

struct GRUCellOptions {
  std::int64_t input_size = 0;
  std::int64_t hidden_size = 0;
  bool bias = true;
  /// The reset gate acts on h before its product (Cho et al., 2014) instead of after it (PyTorch,
  /// cuDNN).
  bool reset_before = false;
};

/// r, z = sigmoid(...), n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h, gates in
/// PyTorch's order r, z, n.
class GRUCell : public RecurrentCell {
 public:
  Parameter weight_ih, weight_hh, bias_ih, bias_hh;
  explicit GRUCell(const GRUCellOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override {
    return masked(x, state, {});
  }
  Output masked(const Tensor& x, const State& state, const StepMasks& masks) const override;
  std::vector<Gate> gates(const Tensor& x, const State& state) const override;  ///< r, z, n
  Parameter recurrent_weight() const override { return weight_hh; }
  State initial_state(std::int64_t batch, DType dtype) const override;
  std::int64_t output_size() const override { return options_.hidden_size; }
  std::string describe() const override;

 private:
  GRUCellOptions options_;
};

}  // namespace unroll
