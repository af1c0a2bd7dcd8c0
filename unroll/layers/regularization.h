#pragma once

#include <unroll/layers/cells.h>

#include <span>

namespace unroll {

/// How a recurrent layer is regularised while it trains; probabilities of dropping, 0: not at all.
/// What is dropped by multiplication is scaled by 1 / (1 - p), so that evaluation takes the weights
/// as they are; zoneout in evaluation takes the expectation. Every layer and direction has masks of
/// its own, and every call draws new ones.
struct Regularization {
  /// Of each layer's input, one mask for all steps of a sequence, and of h on its way into the
  /// recurrent product, likewise: variational dropout (Gal, Ghahramani, "A theoretically grounded
  /// application of dropout in recurrent neural networks", 2016).
  double input_dropout = 0, hidden_dropout = 0;
  /// Of what a gated cell takes in, g of an LSTM and n of a GRU, so that nothing remembered is
  /// lost; at each step anew (Semeniuta, Severyn, Barth, "Recurrent dropout without memory loss",
  /// 2016).
  double update_dropout = 0;
  /// Units of h and of an LSTM's c that stay as they are for a step (Krueger et al., "Zoneout:
  /// regularizing RNNs by randomly preserving hidden activations", 2017).
  double zoneout_h = 0, zoneout_c = 0;
  /// Of the recurrent weight's elements, one mask a call: DropConnect, as in AWD-LSTM (Merity,
  /// Keskar, Socher, "Regularizing and optimizing LSTM language models", 2018).
  double weight_drop = 0;

  struct Field {
    const char* name;
    double Regularization::*value;
  };
  /// All of them, by name: for files and command lines.
  static std::span<const Field> fields();
  bool any() const;
};

/// Runs a recurrent layer's cells with a Regularization. What varies by step comes to scan() as
/// further columns of its input, what does not as a constant, so that scan runs its own loop.
class Regularizer : public Module {
 public:
  /// Throws Error for a probability outside [0, 1).
  Regularizer(const Regularization& options, GeneratorRef generator);

  /// As scan(cell, xs [T, B, input], state, options), with new masks where this is in training.
  Output run(const RecurrentCell& cell, const Tensor& xs, const State& state,
             const ScanOptions& options, const Where& where);
  /// One step with the expectation of what training draws: cell(x, state) but for zoneout.
  Output expected(const RecurrentCell& cell, const Tensor& x, const State& state) const;
  std::string describe() const override;

 private:
  Output train_run(const RecurrentCell& cell, const Tensor& xs, const State& state,
                   const ScanOptions& options, const Where& where);

  Regularization options_;
  Generator generator_;
};

}  // namespace unroll
