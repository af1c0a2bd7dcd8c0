#pragma once

#include <unroll/layers/dropout.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/norm.h>
#include <unroll/layers/parallel_cell.h>

#include <array>
#include <memory>

namespace unroll {

// The minimal recurrent units of Feng et al., 2024, "Were RNNs All We Needed?": gates that depend
// on the input alone leave a linear recurrence, which linear_recurrence() runs.

struct MinimalCellOptions {
  std::int64_t input_size = 0;
  std::int64_t hidden_size = 0;
  bool bias = true;
  /// The candidate is g(W x), with g(x) = x + 0.5 for x >= 0 and sigmoid(x) below, as the paper has
  /// it where it computes in logarithms; false: W x itself, as in its plain form.
  bool positive = true;
};

/// What both units are: gates from one product, of which each makes the recurrence's factor and
/// what it adds. State {h [B, hidden]}, which is the output.
class MinimalCell : public ParallelCell {
 public:
  Parameter weight_ih, bias_ih;  ///< [gates hidden, input], [gates hidden]
  std::vector<Shape> state_shapes(std::int64_t batch) const override;
  std::int64_t input_size() const override { return options_.input_size; }
  std::int64_t output_size() const override { return options_.hidden_size; }
  std::string describe() const override;

 protected:
  MinimalCell(const char* name, int gates, const MinimalCellOptions& options,
              GeneratorRef& generator);
  Output parallel(const Tensor& x, const State& state, const Tensor& lengths,
                  Where where) const override;
  /// h' = factor h + added, of the inputs of all gates side by side.
  virtual std::array<Tensor, 2> terms(const Tensor& gates, bool positive) const = 0;
  /// A step's inputs of each gate, the candidate itself last.
  std::vector<Tensor> parts(const Tensor& x) const;

 private:
  const char* name_;
  int gates_;
  MinimalCellOptions options_;
};

/// z = sigmoid(W_z x), h~ = g(W_h x), h' = (1 - z) h + z h~. weight_ih and bias_ih hold z,
/// then h~.
class MinGRU : public MinimalCell {
 public:
  explicit MinGRU(const MinimalCellOptions& options, GeneratorRef generator = {})
      : MinimalCell("MinGRU", 2, options, generator) {}
  Output operator()(const Tensor& x, const State& state) const override;
  std::vector<Gate> gates(const Tensor& x, const State& state) const override;  ///< 1 - z, h~

 protected:
  std::array<Tensor, 2> terms(const Tensor& gates, bool positive) const override;
};

/// f = sigmoid(W_f x), i = sigmoid(W_i x), h~ = g(W_h x), h' = f / (f + i) h + i / (f + i) h~: the
/// paper's form whose gates add up to 1. weight_ih and bias_ih hold f, i, h~.
class MinLSTM : public MinimalCell {
 public:
  explicit MinLSTM(const MinimalCellOptions& options, GeneratorRef generator = {})
      : MinimalCell("MinLSTM", 3, options, generator) {}
  Output operator()(const Tensor& x, const State& state) const override;
  std::vector<Gate> gates(const Tensor& x,
                          const State& state) const override;  ///< f' = f / (f + i), h~

 protected:
  std::array<Tensor, 2> terms(const Tensor& gates, bool positive) const override;
};

struct MinimalBlockOptions {
  std::int64_t size = 0;
  bool lstm = false;                 ///< a MinLSTM in place of a MinGRU
  std::int64_t expand = 2;           ///< units of the recurrence, in multiples of `size`
  std::int64_t taps = 4;             ///< of the convolution
  std::int64_t dim_feedforward = 0;  ///< 0: 4 size
  bool bias = true;  ///< of the linear layers and the gates; the convolution has one always
  double dropout = 0;
};

/// The block of the paper's language model, with the norm ahead of each part: a causal convolution,
/// the recurrence, expanded and projected back, then a feed-forward part:
///     x + out_proj(rnn(conv(norm1(x)))), then x + linear2(gelu(linear1(norm2(x))))
/// with RMS norms. State {the last taps - 1 inputs of the convolution [B, taps - 1, size], h}.
class MinimalBlock : public ParallelCell {
 public:
  RMSNorm norm1, norm2;
  Parameter conv_weight, conv_bias;  ///< [size, 1, taps], [size]
  std::unique_ptr<ParallelCell> rnn;
  Linear out_proj, linear1, linear2;

  explicit MinimalBlock(const MinimalBlockOptions& options, GeneratorRef generator = {});
  Output operator()(const Tensor& x, const State& state) const override;
  std::vector<Gate> gates(const Tensor& x, const State& state) const override;  ///< of rnn
  std::vector<Shape> state_shapes(std::int64_t batch) const override;
  std::int64_t input_size() const override { return options_.size; }
  std::int64_t output_size() const override { return options_.size; }
  std::string describe() const override;

 protected:
  Output parallel(const Tensor& x, const State& state, const Tensor& lengths,
                  Where where) const override;

 private:
  Tensor drop(const Tensor& x) const;
  Tensor rest(const Tensor& x, const Tensor& recurrent, Where where) const;

  MinimalBlockOptions options_;
  std::unique_ptr<Dropout> dropout_;
};

}  // namespace unroll
