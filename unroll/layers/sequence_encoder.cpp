#include <fmt/format.h>
#include <unroll/layers/chrono.h>
#include <unroll/layers/sequence_encoder.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>
#include <unroll/ops/reduce.h>

namespace unroll {

SequenceEncoder::SequenceEncoder(const SequenceEncoderOptions& o, GeneratorRef generator)
    : options_(o) {
  if (o.kind == "lstm") {
    recurrent_ = std::make_unique<LSTM>(LSTMOptions{.input_size = o.input_size,
                                                    .hidden_size = o.hidden_size,
                                                    .num_layers = o.num_layers,
                                                    .dropout = o.dropout,
                                                    .bidirectional = o.bidirectional,
                                                    .forget_bias = 1},
                                        generator);
  } else if (o.kind == "gru") {
    recurrent_ = std::make_unique<GRU>(GRUOptions{.input_size = o.input_size,
                                                  .hidden_size = o.hidden_size,
                                                  .num_layers = o.num_layers,
                                                  .dropout = o.dropout,
                                                  .bidirectional = o.bidirectional},
                                       generator);
  } else if (o.kind == "transformer") {
    input_ = std::make_unique<Linear>(o.input_size, o.hidden_size, generator);
    transformer_ =
        std::make_unique<TransformerEncoder>(TransformerOptions{.d_model = o.hidden_size,
                                                                .nhead = o.heads,
                                                                .num_layers = o.num_layers,
                                                                .dropout = o.dropout,
                                                                .activation = FeedForward::gelu,
                                                                .norm_first = true,
                                                                .rotary = true},
                                             generator);
    add("input", *input_);
    add("transformer", *transformer_);
  } else {
    fail("SequenceEncoder", fmt::format("no kind is named '{}'", o.kind),
         "Known: lstm, gru, transformer");
  }
  if (recurrent_) {
    if (o.longest > 0) chrono_init(*recurrent_, o.longest, generator);
    add("rnn", *recurrent_);
  }
}

Output SequenceEncoder::encode(const Tensor& x, const Tensor& lengths) {
  if (recurrent_) return (*recurrent_)(x, RecurrentCall{.lengths = lengths});
  return (*transformer_)((*input_)(x), {.lengths = lengths});
}

Tensor SequenceEncoder::operator()(const Tensor& x, const Tensor& lengths) {
  return encode(x, lengths).output;
}

Tensor SequenceEncoder::summary_of(const Tensor& x, const Tensor& lengths) {
  const Output encoded = encode(x, lengths);
  if (recurrent_) {
    const Tensor& h = encoded.state[0];  // [layers * directions, B, hidden]
    const std::int64_t directions = options_.bidirectional ? 2 : 1;
    const auto last = unbind(slice(h, 0, h.size(0) - directions));
    return concat(last, -1);
  }
  if (!lengths.defined()) return mean(encoded.output, {0});
  const Tensor mask = length_mask("SequenceEncoder", lengths, x.size(0), x.size(1),
                                  encoded.output.dtype(), Where::current());
  return sum(encoded.output * mask, {0}) / sum(mask, {0});
}

std::int64_t SequenceEncoder::output_size() const {
  return recurrent_ ? recurrent_->output_size() : options_.hidden_size;
}

std::string SequenceEncoder::describe() const {
  return fmt::format("SequenceEncoder({})", options_.kind);
}

}  // namespace unroll
