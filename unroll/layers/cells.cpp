#include <fmt/format.h>
#include <unroll/layers/cells.h>
#include <unroll/ops/index.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/norm.h>
#include <unroll/ops/pointwise.h>

#include <cmath>

namespace unroll {
namespace {

// Recurrent layers start uniform in +-1/sqrt(hidden), all parameters alike, as in PyTorch.
Parameter uniform(GeneratorRef& generator, const Shape& shape, std::int64_t hidden) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(hidden));
  return Parameter(generator->uniform(shape, -bound, bound));
}

void check_sizes(const char* name, std::int64_t input, std::int64_t hidden) {
  if (input < 1 || hidden < 1)
    fail(name, fmt::format("sizes must be positive, got {} -> {}", input, hidden));
}

Tensor or_none(const Parameter& parameter) {
  return parameter.defined() ? Tensor(parameter) : Tensor();
}

// c' = sigmoid(f) c + sigmoid(i) tanh(g), and a mask of what is added.
template <class Gate>
Tensor taken_in(const Gate& i, const Gate& f, const Gate& g, const Tensor& c, const Tensor& mask) {
  if (!mask.defined())
    return pointwise(
        "lstm_cell",
        [](auto i, auto f, auto g, auto c0) { return sigmoid(f) * c0 + sigmoid(i) * tanh(g); }, i,
        f, g, c);
  return pointwise(
      "lstm_cell_masked",
      [](auto i, auto f, auto g, auto c0, auto m) {
        return sigmoid(f) * c0 + sigmoid(i) * tanh(g) * m;
      },
      i, f, g, c, mask);
}

// What the product of a step takes: h and its weight, with what masks make of them.
struct Recurrent {
  Tensor h, weight;
  Recurrent(const Tensor& state, const Parameter& own, const StepMasks& masks)
      : h(masks.hidden.defined() ? state * masks.hidden : state),
        weight(masks.weight_hh.defined() ? masks.weight_hh : Tensor(own)) {}
};

Tensor joined_bias(const Parameter& bias_ih, const Parameter& bias_hh) {
  return bias_ih.defined() ? Tensor(bias_ih) + Tensor(bias_hh) : Tensor();
}

// W_ih x + b_ih + W_hh h + b_hh, the first half apart so that scan can take it out of the loop.
Tensor summed(const Tensor& x, const Tensor& h, const Parameter& weight_ih, const Tensor& weight_hh,
              const Parameter& bias_ih, const Parameter& bias_hh) {
  const Tensor from_x = linear(x, weight_ih, joined_bias(bias_ih, bias_hh));
  return matmul(h, weight_hh, {.transpose_b = true, .add = from_x});
}

}  // namespace

Output RecurrentCell::masked(const Tensor& x, const State& state, const StepMasks& masks) const {
  if (masks.weight_hh.defined() || masks.hidden.defined() || masks.update.defined())
    fail("recurrent", fmt::format("a {} has no place for masks", describe()),
         "Override masked() beside operator()");
  return (*this)(x, state);
}

RNNCell::RNNCell(const RNNCellOptions& options, GeneratorRef generator) : options_(options) {
  const std::int64_t h = options.hidden_size;
  check_sizes("RNNCell", options.input_size, h);
  weight_ih = uniform(generator, {h, options.input_size}, h);
  weight_hh = uniform(generator, {h, h}, h);
  if (options.bias) {
    bias_ih = uniform(generator, {h}, h);
    bias_hh = uniform(generator, {h}, h);
  }
  add("weight_ih", weight_ih);
  add("weight_hh", weight_hh);
  add("bias_ih", bias_ih);
  add("bias_hh", bias_hh);
}

Output RNNCell::masked(const Tensor& x, const State& state, const StepMasks& masks) const {
  if (masks.update.defined())
    fail("RNNCell", "what it takes in is its whole state, not an update of it",
         "update_dropout is for LSTM and GRU");
  const Recurrent past(state[0], weight_hh, masks);
  const Tensor sum = summed(x, past.h, weight_ih, past.weight, bias_ih, bias_hh);
  const Tensor h = options_.relu ? relu(sum) : tanh(sum);
  return {h, {h}};
}

State RNNCell::initial_state(std::int64_t batch, DType dtype) const {
  return {Tensor::zeros({batch, options_.hidden_size}, dtype)};
}

std::string RNNCell::describe() const {
  return fmt::format("RNNCell({} -> {}, {})", options_.input_size, options_.hidden_size,
                     options_.relu ? "relu" : "tanh");
}

LSTMCell::LSTMCell(const LSTMCellOptions& options, GeneratorRef generator) : options_(options) {
  const std::int64_t h = options.hidden_size, p = options.proj_size;
  check_sizes("LSTMCell", options.input_size, h);
  if (p < 0 || p >= h)
    fail("LSTMCell", fmt::format("proj_size {} must be 0 or below hidden_size {}", p, h));
  weight_ih = uniform(generator, {4 * h, options.input_size}, h);
  weight_hh = uniform(generator, {4 * h, p > 0 ? p : h}, h);
  if (options.bias) {
    bias_ih = uniform(generator, {4 * h}, h);
    bias_hh = uniform(generator, {4 * h}, h);
    if (!std::isnan(options.forget_bias)) {
      for (Parameter* bias : {&bias_ih, &bias_hh}) {
        const double value = bias == &bias_ih ? options.forget_bias : 0.0;
        float* values = bias->mutable_value().mutable_ptr<float>();
        std::fill(values + h, values + 2 * h, static_cast<float>(value));
      }
    }
  }
  if (p > 0) weight_hr = uniform(generator, {p, h}, h);
  add("weight_ih", weight_ih);
  add("weight_hh", weight_hh);
  add("bias_ih", bias_ih);
  add("bias_hh", bias_hh);
  add("weight_hr", weight_hr);
  if (options.layer_norm) {
    norm_ih = Parameter(Tensor::full({4 * h}, 1));
    norm_hh = Parameter(Tensor::full({4 * h}, 1));
    norm_c = Parameter(Tensor::full({h}, 1));
    norm_c_bias = Parameter(Tensor::zeros({h}));
  }
  add("norm_ih", norm_ih);
  add("norm_hh", norm_hh);
  add("norm_c", norm_c);
  add("norm_c_bias", norm_c_bias);
}

// [B, 4H], the gates before their nonlinearities.
Tensor LSTMCell::sums(const Tensor& x, const Tensor& h, const Tensor& weight) const {
  if (!options_.layer_norm) return summed(x, h, weight_ih, weight, bias_ih, bias_hh);
  Tensor from_x = layer_norm(linear(x, weight_ih), norm_ih);
  if (bias_ih.defined()) from_x = from_x + joined_bias(bias_ih, bias_hh);
  return from_x + layer_norm(matmul(h, weight, {.transpose_b = true}), norm_hh);
}

std::vector<Gate> LSTMCell::gates(const Tensor& x, const State& state) const {
  const auto [i, f, g, o] = chunk<4>(sums(x, state[0], weight_hh));
  return {{"i", sigmoid(Tensor(i))},
          {"f", sigmoid(Tensor(f)), true},
          {"g", tanh(Tensor(g))},
          {"o", sigmoid(Tensor(o))}};
}

Output LSTMCell::masked(const Tensor& x, const State& state, const StepMasks& masks) const {
  const Recurrent past(state[0], weight_hh, masks);
  std::array<Tensor, 2> next;
  const auto [i, f, g, o] = chunk<4>(sums(x, past.h, past.weight));
  if (options_.layer_norm) {
    next[1] = taken_in(i, f, g, state[1], masks.update);
    next[0] = pointwise(
        "lstm_output", [](auto o, auto c) { return sigmoid(o) * tanh(c); }, o,
        layer_norm(next[1], norm_c, norm_c_bias));
  } else {
    if (masks.update.defined()) {
      next[1] = taken_in(i, f, g, state[1], masks.update);
      next[0] = pointwise(
          "lstm_output", [](auto o, auto c) { return sigmoid(o) * tanh(c); }, o, next[1]);
    } else {
      next = pointwise(
          "lstm",
          [](auto i, auto f, auto g, auto o, auto c0) {
            const auto c = sigmoid(f) * c0 + sigmoid(i) * tanh(g);
            return std::tuple{sigmoid(o) * tanh(c), c};
          },
          i, f, g, o, state[1]);
    }
  }
  const auto& [h, c] = next;
  const Tensor output = weight_hr.defined() ? linear(h, weight_hr) : h;
  return {output, {output, c}};
}

State LSTMCell::initial_state(std::int64_t batch, DType dtype) const {
  return {Tensor::zeros({batch, output_size()}, dtype),
          Tensor::zeros({batch, options_.hidden_size}, dtype)};
}

std::string LSTMCell::describe() const {
  return fmt::format("LSTMCell({} -> {}{})", options_.input_size, options_.hidden_size,
                     options_.proj_size > 0 ? fmt::format(" -> {}", options_.proj_size) : "");
}

GRUCell::GRUCell(const GRUCellOptions& options, GeneratorRef generator) : options_(options) {
  const std::int64_t h = options.hidden_size;
  check_sizes("GRUCell", options.input_size, h);
  weight_ih = uniform(generator, {3 * h, options.input_size}, h);
  weight_hh = uniform(generator, {3 * h, h}, h);
  if (options.bias) {
    bias_ih = uniform(generator, {3 * h}, h);
    bias_hh = uniform(generator, {3 * h}, h);
  }
  add("weight_ih", weight_ih);
  add("weight_hh", weight_hh);
  add("bias_ih", bias_ih);
  add("bias_hh", bias_hh);
}

Output GRUCell::masked(const Tensor& x, const State& state, const StepMasks& masks) const {
  const Recurrent past(state[0], weight_hh, masks);
  const Tensor& h = state[0];
  const Tensor from_x = linear(x, weight_ih, or_none(bias_ih));
  if (!options_.reset_before) {
    const auto [xr, xz, xn] = chunk<3>(from_x);
    const auto [hr, hz, hn] = chunk<3>(linear(past.h, past.weight, or_none(bias_hh)));
    if (masks.update.defined()) {
      const Tensor next = pointwise(
          "gru_masked",
          [](auto xr, auto xz, auto xn, auto hr, auto hz, auto hn, auto h, auto mask) {
            const auto r = sigmoid(xr + hr);
            const auto z = sigmoid(xz + hz);
            const auto n = mask * tanh(xn + r * hn);
            return n + z * (h - n);
          },
          xr, xz, xn, hr, hz, hn, h, masks.update);
      return {next, {next}};
    }
    const Tensor next = pointwise(
        "gru",
        [](auto xr, auto xz, auto xn, auto hr, auto hz, auto hn, auto h) {
          const auto r = sigmoid(xr + hr);
          const auto z = sigmoid(xz + hz);
          const auto n = tanh(xn + r * hn);
          return n + z * (h - n);
        },
        xr, xz, xn, hr, hz, hn, h);
    return {next, {next}};
  }
  const std::int64_t size = options_.hidden_size;
  const Tensor& weight = past.weight;
  const Tensor rz_weight = slice(weight, 0, 0, 2 * size);
  const Tensor n_weight = slice(weight, 0, 2 * size, 3 * size);
  Tensor rz_bias, n_bias;
  if (bias_hh.defined()) {
    rz_bias = slice(bias_hh, 0, 0, 2 * size);
    n_bias = slice(bias_hh, 0, 2 * size, 3 * size);
  }
  const Tensor x_rz = slice(from_x, -1, 0, 2 * size), x_n = slice(from_x, -1, 2 * size, 3 * size);
  Tensor h_rz = linear(past.h, rz_weight, rz_bias);
  const auto [r, z] = chunk<2>(sigmoid(x_rz + h_rz));
  const Tensor reset = Tensor(r) * past.h;
  const Tensor h_n = linear(reset, n_weight, n_bias);
  if (masks.update.defined()) {
    const Tensor n = tanh(x_n + h_n) * masks.update;
    const Tensor next = n + Tensor(z) * (h - n);
    return {next, {next}};
  }
  const Tensor next = pointwise(
      "gru",
      [](auto xn, auto hn, auto z, auto h) {
        const auto n = tanh(xn + hn);
        return n + z * (h - n);
      },
      x_n, h_n, Tensor(z), h);
  return {next, {next}};
}

std::vector<Gate> GRUCell::gates(const Tensor& x, const State& state) const {
  const std::int64_t size = options_.hidden_size;
  const Tensor& h = state[0];
  const auto [xr, xz, xn] = chunk<3>(linear(x, weight_ih, or_none(bias_ih)));
  const auto [hr, hz, hn] = chunk<3>(linear(h, weight_hh, or_none(bias_hh)));
  const Tensor r = sigmoid(Tensor(xr) + Tensor(hr)), z = sigmoid(Tensor(xz) + Tensor(hz));
  Tensor reset = r * Tensor(hn);
  if (options_.reset_before) {
    const Tensor bias =
        bias_hh.defined() ? slice(Tensor(bias_hh), 0, 2 * size, 3 * size) : Tensor();
    reset = linear(r * h, slice(Tensor(weight_hh), 0, 2 * size, 3 * size), bias);
  }
  return {{"r", r}, {"z", z, true}, {"n", tanh(Tensor(xn) + reset)}};
}

State GRUCell::initial_state(std::int64_t batch, DType dtype) const {
  return {Tensor::zeros({batch, options_.hidden_size}, dtype)};
}

std::string GRUCell::describe() const {
  return fmt::format("GRUCell({} -> {}{})", options_.input_size, options_.hidden_size,
                     options_.reset_before ? ", reset before" : "");
}

}  // namespace unroll
