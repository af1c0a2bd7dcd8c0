#pragma once

#include <unroll/layers/cells.h>
#include <unroll/layers/dropout.h>
#include <unroll/layers/regularization.h>
#include <unroll/layers/step_form.h>

#include <concepts>
#include <initializer_list>
#include <memory>

namespace unroll {

/// What a recurrent layer can be called with besides its input.
struct RecurrentCall {
  State state = {};     ///< {h_0} or {h_0, c_0}, each [layers * directions, B, size]; empty: zeros
  Tensor lengths = {};  ///< [B] i64, in any order; undefined: every sequence fills T
  bool unrolled = false;              ///< the plain loop on the tape in place of scan's own
  std::int64_t checkpoint_every = 0;  ///< see ScanOptions
};

/// What the three layers share: stacks of cells in one or two directions, run by scan().
/// Parameters have PyTorch's names: weight_ih_l0, weight_hh_l1_reverse, ...
class RecurrentLayer : public Module {
 public:
  /// x [T, B, input] (or [B, T, input] where batch_first) -> output [T, B, directions * size] and
  /// the last state, whose tensors are [layers * directions, B, size]. With lengths, outputs
  /// behind a sequence's end are 0 and its last state is that of its own last step.
  Output operator()(const Tensor& x, Where where = Where::current()) const {
    return run(x, {}, where);
  }
  // A template, so that braces with names in them are never taken for a state.
  template <std::same_as<State> S>
  Output operator()(const Tensor& x, const S& state, Where where = Where::current()) const {
    return run(x, {.state = state}, where);
  }
  Output operator()(const Tensor& x, std::initializer_list<Tensor> state,
                    Where where = Where::current()) const {
    return run(x, {.state = state}, where);
  }
  Output operator()(const Tensor& x, const RecurrentCall& call,
                    Where where = Where::current()) const {
    return run(x, call, where);
  }

  /// One step of one layer in the forward direction, for looking inside: x [B, input of the layer]
  /// and the cell's own state. What regularises the layer acts as in a call.
  Output step(int layer, const Tensor& x, const State& state, Where where = Where::current()) const;

  State initial_state(std::int64_t batch, DType dtype = DType::f32) const;
  /// One step of all layers, for a Stream: x [B, input] -> [B, size]; the state is that of layer 0,
  /// of layer 1, ... Throws Error for two directions, and while it drops anything in training.
  StepForm step_form() const;
  std::int64_t output_size() const { return directions_ * cells_[0]->output_size(); }
  /// The cell of one layer and direction, as scan() runs it.
  const RecurrentCell& cell(int layer, int direction = 0) const {
    const int place = layer * directions_ + direction;
    return *cells_[static_cast<std::size_t>(place)];
  }
  std::string describe() const override;

 protected:
  struct Common {
    const char* name;
    std::int64_t input_size, hidden_size;
    int num_layers;
    bool bidirectional, batch_first;
    double dropout;
    bool gated;
    Regularization regularization;
  };
  /// Checks the options and makes the cells by make(input size of the layer).
  template <class Make>
  void build(const Common& common, GeneratorRef generator, Make make);

 private:
  Output run(const Tensor& x, const RecurrentCall& call, const Where& where) const;
  void check(const Tensor& x, const RecurrentCall& call, const Where& where) const;
  ScanMember member(int index, const RecurrentCall& call, const Tensor& x) const;
  // The directions of one layer.
  std::vector<Output> regularized(int layer, std::span<const ScanMember> members, const Tensor& x,
                                  const ScanOptions& options, const Where& where) const;
  void check_options() const;

  Common common_{};
  int directions_ = 1;
  std::vector<std::unique_ptr<RecurrentCell>> cells_;
  std::unique_ptr<Dropout> dropout_;
  std::unique_ptr<Regularizer> regularizer_;  // where there is anything to do
};

struct RNNOptions {
  std::int64_t input_size = 0;
  std::int64_t hidden_size = 0;
  int num_layers = 1;
  bool relu = false;
  bool bias = true;
  bool batch_first = false;
  double dropout = 0;  ///< of each layer's output but the last
  bool bidirectional = false;
  Regularization regularization = {};
};

class RNN : public RecurrentLayer {
 public:
  explicit RNN(const RNNOptions& options, GeneratorRef generator = {});
};

struct LSTMOptions {
  std::int64_t input_size = 0;
  std::int64_t hidden_size = 0;
  int num_layers = 1;
  bool bias = true;
  bool batch_first = false;
  double dropout = 0;
  bool bidirectional = false;
  std::int64_t proj_size = 0;
  double forget_bias = std::numeric_limits<double>::quiet_NaN();  ///< see LSTMCellOptions
  bool layer_norm = false;                                        ///< see LSTMCellOptions
  Regularization regularization = {};
};

class LSTM : public RecurrentLayer {
 public:
  explicit LSTM(const LSTMOptions& options, GeneratorRef generator = {});
};

struct GRUOptions {
  std::int64_t input_size = 0;
  std::int64_t hidden_size = 0;
  int num_layers = 1;
  bool bias = true;
  bool batch_first = false;
  double dropout = 0;
  bool bidirectional = false;
  bool reset_before = false;
  Regularization regularization = {};
};

class GRU : public RecurrentLayer {
 public:
  explicit GRU(const GRUOptions& options, GeneratorRef generator = {});
};

}  // namespace unroll
