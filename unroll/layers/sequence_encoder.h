#pragma once

#include <unroll/layers/recurrent.h>
#include <unroll/layers/transformer.h>

#include <memory>
#include <string>

namespace unroll {

struct SequenceEncoderOptions {
  std::string kind = "lstm";  ///< lstm, gru or transformer
  std::int64_t input_size = 0;
  std::int64_t hidden_size = 128;  ///< of each direction; Transformer: d_model
  int num_layers = 1;
  bool bidirectional = true;  ///< LSTM, GRU; a Transformer here always sees both sides
  std::int64_t heads = 4;     ///< Transformer
  double dropout = 0;         ///< between layers; Transformer: of all its parts
  std::int64_t longest = 0;   ///< LSTM, GRU: steps for chrono_init(); 0: without
};

/// What tagging and classification need of an architecture: every step of a sequence as a vector
/// that knows its surroundings. A recurrent stack, or a linear layer and a pre-norm Transformer
/// encoder with rotary positions.
class SequenceEncoder : public Module {
 public:
  /// Throws Error for an unknown kind.
  explicit SequenceEncoder(const SequenceEncoderOptions& options, GeneratorRef generator = {});
  /// x [T, B, input_size], lengths [B] i64 or undefined -> [T, B, output_size()]. What stands
  /// behind a sequence's end reaches nothing before it.
  Tensor operator()(const Tensor& x, const Tensor& lengths = {});
  /// [T, B, ...] as above -> [B, output_size()]: one vector a sequence. A recurrent stack's last
  /// states, forward and backward; a Transformer's mean over the steps.
  Tensor summary_of(const Tensor& x, const Tensor& lengths = {});
  std::int64_t output_size() const;
  std::string describe() const override;

 private:
  Output encode(const Tensor& x, const Tensor& lengths);

  SequenceEncoderOptions options_;
  std::unique_ptr<RecurrentLayer> recurrent_;
  std::unique_ptr<Linear> input_;
  std::unique_ptr<TransformerEncoder> transformer_;
};

}  // namespace unroll
