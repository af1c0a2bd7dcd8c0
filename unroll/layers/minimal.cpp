#include <fmt/format.h>
#include <unroll/layers/causal_conv.h>
#include <unroll/layers/minimal.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/causal_conv.h>
#include <unroll/ops/index.h>
#include <unroll/ops/lengths.h>
#include <unroll/ops/linear_recurrence.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/pointwise.h>

#include <cmath>

namespace unroll {
namespace {

const MinimalCellOptions& checked(const char* name, const MinimalCellOptions& o) {
  if (o.input_size < 1 || o.hidden_size < 1)
    fail(name, fmt::format("sizes must be positive, got {} -> {}", o.input_size, o.hidden_size));
  return o;
}

// g of the step, in plain ops: x + 0.5 is relu(x) + sigmoid(0). All steps at once have it in their
// lambdas.
Tensor plain_g(const Tensor& x) {
  const Tensor positive = relu(x);
  return positive + sigmoid(x - positive);
}

}  // namespace

MinimalCell::MinimalCell(const char* name, int gates, const MinimalCellOptions& options,
                         GeneratorRef& generator)
    : name_(name), gates_(gates), options_(checked(name, options)) {
  const std::int64_t rows = gates * options.hidden_size;
  const double bound = 1.0 / std::sqrt(static_cast<double>(options.input_size));
  weight_ih = Parameter(generator->uniform({rows, options.input_size}, -bound, bound));
  if (options.bias) bias_ih = Parameter(generator->uniform({rows}, -bound, bound));
  add("weight_ih", weight_ih);
  add("bias_ih", bias_ih);
}

Output MinimalCell::parallel(const Tensor& x, const State& state, const Tensor& lengths,
                             Where where) const {
  auto [factor, added] =
      terms(linear(x, weight_ih, bias_ih.defined() ? Tensor(bias_ih) : Tensor(), where),
            options_.positive);
  const Tensor h = linear_recurrence(detail::within(factor, 1, lengths, where),
                                     detail::within(added, 0, lengths, where), state[0], where);
  return {h, {select(h, 0, h.size(0) - 1, where)}};
}

std::vector<Tensor> MinimalCell::parts(const Tensor& x) const {
  std::vector<Tensor> parts =
      split(linear(x, weight_ih, bias_ih.defined() ? Tensor(bias_ih) : Tensor()), gates_, -1);
  if (options_.positive) parts.back() = plain_g(parts.back());
  return parts;
}

std::vector<Shape> MinimalCell::state_shapes(std::int64_t batch) const {
  return {Shape{batch, options_.hidden_size}};
}

std::string MinimalCell::describe() const {
  return fmt::format("{}({} -> {})", name_, options_.input_size, options_.hidden_size);
}

std::array<Tensor, 2> MinGRU::terms(const Tensor& gates, bool positive) const {
  const auto [z, h] = chunk<2>(gates);
  if (!positive)
    return pointwise(
        "min_gru",
        [](auto z, auto h) {
          const auto s = sigmoid(z);
          return std::tuple{1.0 - s, s * h};
        },
        z, h);
  return pointwise(
      "min_gru",
      [](auto z, auto h) {
        const auto s = sigmoid(z);
        return std::tuple{1.0 - s, s * where(h >= 0.0, h + 0.5, sigmoid(h))};
      },
      z, h);
}

Output MinGRU::operator()(const Tensor& x, const State& state) const {
  const std::vector<Tensor> in = parts(x);
  const Tensor z = sigmoid(in[0]);
  const Tensor h = (1.0 - z) * state[0] + z * in[1];
  return {h, {h}};
}

std::vector<Gate> MinGRU::gates(const Tensor& x, const State& /*state*/) const {
  const std::vector<Tensor> in = parts(x);
  return {{"1 - z", sigmoid(-in[0]), true}, {"h~", in[1]}};
}

// f / (f + i) = sigmoid(softplus(-i) - softplus(-f)) of the gates' inputs: no 0 / 0 far below 0.
std::array<Tensor, 2> MinLSTM::terms(const Tensor& gates, bool positive) const {
  const auto [f, i, h] = chunk<3>(gates);
  if (!positive)
    return pointwise(
        "min_lstm",
        [](auto f, auto i, auto h) {
          const auto d = softplus(-i) - softplus(-f);
          return std::tuple{sigmoid(d), sigmoid(-d) * h};
        },
        f, i, h);
  return pointwise(
      "min_lstm",
      [](auto f, auto i, auto h) {
        const auto d = softplus(-i) - softplus(-f);
        return std::tuple{sigmoid(d), sigmoid(-d) * where(h >= 0.0, h + 0.5, sigmoid(h))};
      },
      f, i, h);
}

Output MinLSTM::operator()(const Tensor& x, const State& state) const {
  const std::vector<Tensor> in = parts(x);
  const Tensor f = sigmoid(in[0]), i = sigmoid(in[1]);
  const Tensor h = (f * state[0] + i * in[2]) / (f + i);
  return {h, {h}};
}

std::vector<Gate> MinLSTM::gates(const Tensor& x, const State& /*state*/) const {
  const std::vector<Tensor> in = parts(x);
  return {{"f'", sigmoid(softplus(-in[1]) - softplus(-in[0])), true}, {"h~", in[2]}};
}

namespace {

std::unique_ptr<ParallelCell> make_unit(const MinimalBlockOptions& o, GeneratorRef& generator) {
  const MinimalCellOptions unit{
      .input_size = o.size, .hidden_size = o.expand * o.size, .bias = o.bias};
  if (o.lstm) return std::make_unique<MinLSTM>(unit, generator);
  return std::make_unique<MinGRU>(unit, generator);
}

const MinimalBlockOptions& checked(const MinimalBlockOptions& o) {
  if (o.size < 1 || o.expand < 1 || o.taps < 1 || o.dim_feedforward < 0)
    fail("MinimalBlock", fmt::format("size {}, expand {}, taps {}, dim_feedforward {}", o.size,
                                     o.expand, o.taps, o.dim_feedforward));
  return o;
}

std::int64_t width(const MinimalBlockOptions& o) {
  return o.dim_feedforward > 0 ? o.dim_feedforward : 4 * o.size;
}

}  // namespace

MinimalBlock::MinimalBlock(const MinimalBlockOptions& o, GeneratorRef g)
    : norm1(checked(o).size),
      norm2(o.size),
      rnn(make_unit(o, g)),
      out_proj({.in_features = o.expand * o.size, .out_features = o.size, .bias = o.bias}, g),
      linear1({.in_features = o.size, .out_features = width(o), .bias = o.bias}, g),
      linear2({.in_features = width(o), .out_features = o.size, .bias = o.bias}, g),
      options_(o),
      dropout_(std::make_unique<Dropout>(o.dropout, g)) {
  std::tie(conv_weight, conv_bias) = detail::make_causal_conv(o.size, o.taps, *g);
  add("norm1", norm1);
  add("conv.weight", conv_weight);
  add("conv.bias", conv_bias);
  add("rnn", *rnn);
  add("out_proj", out_proj);
  add("norm2", norm2);
  add("linear1", linear1);
  add("linear2", linear2);
  if (o.dropout > 0) add("dropout", *dropout_);
}

Tensor MinimalBlock::drop(const Tensor& x) const {
  return dropout_->training() ? (*dropout_)(x) : x;
}

// What is done with the units' outputs, row by row.
Tensor MinimalBlock::rest(const Tensor& x, const Tensor& recurrent, Where where) const {
  const Tensor mixed = x + drop(out_proj(recurrent, where));
  const Tensor wide = linear1(norm2(mixed, where), where);
  return mixed + drop(linear2.of_activated(Activation::gelu, wide, where));
}

Output MinimalBlock::operator()(const Tensor& x, const State& state) const {
  const auto [mixed, window] = detail::causal_conv_step(norm1(x), conv_weight, conv_bias, state[0]);
  Output units = (*rnn)(mixed, {state[1]});
  return {rest(x, units.output, Where::current()), {window, units.state[0]}};
}

std::vector<Gate> MinimalBlock::gates(const Tensor& x, const State& state) const {
  const auto [mixed, window] = detail::causal_conv_step(norm1(x), conv_weight, conv_bias, state[0]);
  return rnn->gates(mixed, {state[1]});
}

Output MinimalBlock::parallel(const Tensor& x, const State& state, const Tensor& lengths,
                              Where where) const {
  const Tensor input = norm1(x, where);
  const Tensor mixed = causal_conv1d(input, conv_weight, conv_bias, state[0], where);
  Output units = rnn->run(mixed, {.state = {state[1]}, .lengths = lengths}, where);
  return {rest(x, units.output, where),
          {last_steps(state[0], input, lengths, where), units.state[0]}};
}

std::vector<Shape> MinimalBlock::state_shapes(std::int64_t batch) const {
  return {Shape{batch, options_.taps - 1, options_.size}, Shape{batch, rnn->output_size()}};
}

std::string MinimalBlock::describe() const {
  return fmt::format("MinimalBlock({}, {})", options_.size, options_.lstm ? "MinLSTM" : "MinGRU");
}

}  // namespace unroll
