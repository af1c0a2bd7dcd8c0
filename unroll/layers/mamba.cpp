#include <fmt/format.h>
#include <unroll/layers/causal_conv.h>
#include <unroll/layers/mamba.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/causal_conv.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/selective_scan.h>

#include <algorithm>
#include <cmath>

namespace unroll {
namespace {

MambaOptions resolved(MambaOptions o) {
  if (o.dt_rank == 0) o.dt_rank = (o.d_model + 15) / 16;
  if (o.d_model < 1 || o.d_state < 1 || o.d_conv < 1 || o.expand < 1 || o.dt_rank < 1)
    fail("Mamba", fmt::format("d_model {}, d_state {}, d_conv {}, expand {}, dt_rank {}", o.d_model,
                              o.d_state, o.d_conv, o.expand, o.dt_rank));
  if (!(o.dt_min > 0 && o.dt_max >= o.dt_min && o.dt_floor > 0))
    fail("Mamba",
         fmt::format("step sizes from {} to {}, at least {}", o.dt_min, o.dt_max, o.dt_floor));
  return o;
}

}  // namespace

Mamba::Mamba(const MambaOptions& options, GeneratorRef g)
    : in_proj({.in_features = options.d_model,
               .out_features = 2 * options.expand * options.d_model,
               .bias = options.bias},
              g),
      x_proj({.in_features = options.expand * options.d_model,
              .out_features = resolved(options).dt_rank + 2 * options.d_state,
              .bias = false},
             g),
      dt_proj(resolved(options).dt_rank, options.expand * options.d_model, g),
      out_proj({.in_features = options.expand * options.d_model,
                .out_features = options.d_model,
                .bias = options.bias},
               g),
      options_(resolved(options)) {
  std::tie(conv_weight, conv_bias) = detail::make_causal_conv(channels(), options.d_conv, *g);
  // The step sizes' logarithms are uniform; the bias is what softplus takes to them.
  Tensor bias = Tensor::empty({channels()}), logs = Tensor::empty({channels(), options.d_state});
  for (float& value : bias.mutable_data<float>()) {
    const double low = std::log(options.dt_min), high = std::log(options.dt_max);
    const double dt = std::max(std::exp(low + (high - low) * g->uniform()), options.dt_floor);
    value = static_cast<float>(dt + std::log(-std::expm1(-dt)));
  }
  dt_proj.bias.set_value(bias);
  for (std::int64_t i = 0; i < logs.numel(); ++i)
    logs.mutable_ptr<float>()[i] =
        static_cast<float>(std::log(static_cast<double>(i % options.d_state + 1)));
  A_log = Parameter(logs);
  D = Parameter(Tensor::full({channels()}, 1));
  add("A_log", A_log);
  add("D", D);
  add("in_proj", in_proj);
  add("conv1d.weight", conv_weight);
  add("conv1d.bias", conv_bias);
  add("x_proj", x_proj);
  add("dt_proj", dt_proj);
  add("out_proj", out_proj);
}

// What the input selects, row by row: step sizes [..., D], B and C [..., N].
Mamba::Selected Mamba::select_by(const Tensor& x, Where where) const {
  const std::vector<Tensor> parts =
      split(x_proj(x, where), {options_.dt_rank, options_.d_state, options_.d_state}, -1, where);
  return {softplus(dt_proj(parts[0], where), where), parts[1], parts[2]};
}

Tensor Mamba::gate(const Tensor& y, const Tensor& x, const Tensor& z, Where where) const {
  return out_proj(
      pointwise(
          "mamba_gate", [](auto y, auto d, auto x, auto z) { return (y + d * x) * silu(z); }, y,
          Tensor(D), x, z),
      where);
}

// Of one step: dt [B, D] -> [B, N, D].
Tensor Mamba::decay(const Tensor& dt) const {
  const Tensor a = -exp(transpose(A_log));  // [N, D]
  return exp(unsqueeze(dt, 1) * a);
}

Output Mamba::operator()(const Tensor& u, const State& state) const {
  const std::vector<Tensor> parts = split(in_proj(u), 2, -1);
  const auto [mixed, window] = detail::causal_conv_step(parts[0], conv_weight, conv_bias, state[0]);
  const Tensor x = silu(mixed);
  const auto [dt, b, c] = select_by(x, Where::current());
  const Tensor h = decay(dt) * state[1] + unsqueeze(b, 2) * unsqueeze(dt * x, 1);
  const Tensor y = sum(unsqueeze(c, 2) * h, {1});
  return {gate(y, x, parts[1], Where::current()), {window, h}};
}

std::vector<Gate> Mamba::gates(const Tensor& u, const State& state) const {
  const std::vector<Tensor> parts = split(in_proj(u), 2, -1);
  const auto [mixed, window] = detail::causal_conv_step(parts[0], conv_weight, conv_bias, state[0]);
  const auto [dt, b, c] = select_by(silu(mixed), Where::current());
  return {{"exp(dt A)", reshape(decay(dt), {u.size(0), options_.d_state * channels()}), true}};
}

Output Mamba::parallel(const Tensor& u, const State& state, const Tensor& lengths,
                       Where where) const {
  const std::vector<Tensor> parts = split(in_proj(u, where), 2, -1, where);
  const Tensor x = silu(causal_conv1d(parts[0], conv_weight, conv_bias, state[0], where), where);
  auto [dt, b, c] = select_by(x, where);
  dt = detail::within(dt, 0, lengths, where);  // a step of size 0 leaves the state as it is
  const Tensor a = -exp(A_log, where);
  const auto [y, last] = selective_scan(x, dt, a, b, c, state[1], where);
  return {gate(y, x, parts[1], where), {last_steps(state[0], parts[0], lengths, where), last}};
}

std::vector<Shape> Mamba::state_shapes(std::int64_t batch) const {
  return {Shape{batch, options_.d_conv - 1, channels()},
          Shape{batch, options_.d_state, channels()}};
}

std::string Mamba::describe() const {
  return fmt::format("Mamba({}, {} channels of {} states)", options_.d_model, channels(),
                     options_.d_state);
}

MambaBlock::MambaBlock(const MambaOptions& options, GeneratorRef generator)
    : norm(options.d_model),
      mixer(options, generator),
      dropout_(std::make_unique<Dropout>(options.dropout, generator)) {
  add("norm", norm);
  add("mixer", mixer);
  if (options.dropout > 0) add("dropout", *dropout_);
}

Output MambaBlock::around(const Tensor& x, Output mixed) const {
  if (dropout_->training()) mixed.output = (*dropout_)(mixed.output);
  return {x + mixed.output, std::move(mixed.state)};
}

Output MambaBlock::operator()(const Tensor& x, const State& state) const {
  return around(x, mixer(norm(x), state));
}

Output MambaBlock::parallel(const Tensor& x, const State& state, const Tensor& lengths,
                            Where where) const {
  return around(x, mixer.run(norm(x, where), {.state = state, .lengths = lengths}, where));
}

}  // namespace unroll
