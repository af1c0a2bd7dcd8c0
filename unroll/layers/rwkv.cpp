#include <fmt/format.h>
#include <unroll/layers/rwkv.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/norm.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/wkv.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace unroll {
namespace {

// Each head's norm adds 1e-5 times the square of the divisor, 8, that the authors scale heads by.
constexpr double head_eps = 64e-5;

Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& mix) {
  return pointwise(
      "lerp", [](auto a, auto b, auto m) { return a + (b - a) * m; }, a, b, mix);
}

// Channel i of n as f(i / n).
Parameter by_channel(std::int64_t n, const std::function<double(double)>& f) {
  Tensor values = Tensor::empty({n});
  for (std::int64_t i = 0; i < n; ++i)
    values.mutable_ptr<float>()[i] =
        static_cast<float>(f(static_cast<double>(i) / static_cast<double>(n)));
  return Parameter(values);
}

// How far the layer stands from the first, 0 to 1, and from behind the last, 1 to almost 0.
double depth(const RWKVOptions& o) {
  return o.layers > 1 ? static_cast<double>(o.layer) / (o.layers - 1) : 0;
}
double height(const RWKVOptions& o) { return 1 - static_cast<double>(o.layer) / o.layers; }

// A projection whose elements are `scale` as large as keep the size of what they are fed.
void start_at(Linear& linear, double scale, GeneratorRef& g) {
  const Shape& shape = linear.weight.shape();
  linear.weight.set_value(g->normal(shape, 0, scale / std::sqrt(static_cast<double>(shape[1]))));
}

// The authors start what enters the residual stream at 0, so that at first nothing depends on any
// state; it is small here, so that gradients can be looked at before the first step.
double into_residual(const RWKVOptions& o) { return 0.5 / std::sqrt(2.0 * o.layers); }

LinearOptions square(const RWKVOptions& o) {
  return {.in_features = o.size, .out_features = o.size, .bias = false};
}

// x one step later: the state's step, then all but the last.
Tensor shifted(const Tensor& x, const Tensor& before, Where where) {
  const Tensor first = unsqueeze(before, 0, where);
  if (x.size(0) == 1) return first;
  return concat({first, slice(x, 0, 0, x.size(0) - 1, 1, where)}, 0, where);
}

Tensor last_step(const Tensor& before, const Tensor& x, const Tensor& lengths, Where where) {
  if (!lengths.defined()) return select(x, 0, x.size(0) - 1, where);
  return squeeze(last_steps(unsqueeze(before, 1, where), x, lengths, where), 1, where);
}

}  // namespace

RWKVOptions resolved(const RWKVOptions& options) {
  RWKVOptions o = options;
  if (o.size < 1 || o.heads < 1 || o.size % o.heads != 0)
    fail("RWKV", fmt::format("{} heads do not divide a size of {}", o.heads, o.size));
  if (o.layers < 1 || o.layer < 0 || o.layer >= o.layers)
    fail("RWKV", fmt::format("layer {} of {}", o.layer, o.layers));
  if (o.mix_rank == 0) o.mix_rank = std::clamp<std::int64_t>(o.size / 16, 8, 32);
  if (o.decay_rank == 0) o.decay_rank = 2 * o.mix_rank;
  if (o.dim_feedforward == 0) o.dim_feedforward = std::max<std::int64_t>(1, o.size * 7 / 2);
  if (o.mix_rank < 1 || o.decay_rank < 1 || o.dim_feedforward < 1)
    fail("RWKV", fmt::format("ranks {} and {}, dim_feedforward {}", o.mix_rank, o.decay_rank,
                             o.dim_feedforward));
  return o;
}

RWKVTimeMix::RWKVTimeMix(const RWKVOptions& options, GeneratorRef g)
    : receptance(square(resolved(options)), g),
      key(square(options), g),
      value(square(options), g),
      gate(square(options), g),
      output(square(options), g),
      options_(resolved(options)) {
  const std::int64_t c = options_.size, rank = options_.mix_rank, heads = options_.heads;
  const double deep = depth(options_), high = height(options_);
  const auto mix = [&](double power, double more) {
    return by_channel(c, [=](double x) { return 1 - (std::pow(x, power) + more); });
  };
  time_maa_x = mix(high, 0);
  time_maa_w = mix(high, 0);
  time_maa_k = mix(high, 0);
  time_maa_v = mix(high, 0.3 * deep);
  time_maa_r = mix(0.5 * high, 0);
  time_maa_g = mix(0.5 * high, 0);
  time_maa_w1 = Parameter(Tensor::zeros({c, 5 * rank}));
  time_maa_w2 = Parameter(g->uniform({5, rank, c}, -0.01, 0.01));
  // Decays from almost all to almost nothing a step, the quick ones fewer in deeper layers.
  const double last = std::max<double>(1, static_cast<double>(c - 1)) / static_cast<double>(c);
  time_decay =
      by_channel(c, [=](double x) { return -6 + 5 * std::pow(x / last, 0.7 + 1.3 * deep); });
  time_decay_w1 = Parameter(Tensor::zeros({c, options_.decay_rank}));
  time_decay_w2 = Parameter(g->uniform({options_.decay_rank, c}, -0.01, 0.01));
  Tensor bonus = Tensor::empty({heads, c / heads});
  for (std::int64_t i = 0; i < c; ++i) {
    const double zigzag = (static_cast<double>((i + 1) % 3) - 1) * 0.1;
    const double x = static_cast<double>(i) / static_cast<double>(c) / last;
    bonus.mutable_ptr<float>()[i] = static_cast<float>(deep * (1 - x) + zigzag);
  }
  time_faaaa = Parameter(bonus);
  ln_weight = Parameter(Tensor::full({c}, 1));
  ln_bias = Parameter(Tensor::zeros({c}));
  start_at(receptance, 1, g);
  start_at(key, 0.1, g);
  start_at(value, 1, g);
  start_at(gate, 0.1, g);
  start_at(output, into_residual(options_), g);
  add("time_maa_x", time_maa_x);
  add("time_maa_w", time_maa_w);
  add("time_maa_k", time_maa_k);
  add("time_maa_v", time_maa_v);
  add("time_maa_r", time_maa_r);
  add("time_maa_g", time_maa_g);
  add("time_maa_w1", time_maa_w1);
  add("time_maa_w2", time_maa_w2);
  add("time_decay", time_decay);
  add("time_decay_w1", time_decay_w1);
  add("time_decay_w2", time_decay_w2);
  add("time_faaaa", time_faaaa);
  add("receptance", receptance);
  add("key", key);
  add("value", value);
  add("gate", gate);
  add("output", output);
  add("ln_x.weight", ln_weight);
  add("ln_x.bias", ln_bias);
}

// Row by row: all that does not depend on the matrix state.
RWKVTimeMix::Projected RWKVTimeMix::project(const Tensor& x, const Tensor& shift,
                                            Where where) const {
  const Tensor mixed = lerp(x, shift, time_maa_x);
  const std::vector<Tensor> narrow =
      split(tanh(matmul(mixed, time_maa_w1, {}, where), where), 5, -1, where);
  const std::vector<Tensor> wide = unbind(time_maa_w2, 0, where);
  const auto shift_for = [&](std::size_t i, const Parameter& maa) {
    return lerp(x, shift, matmul(narrow[i], wide[i], {.add = Tensor(maa)}, where));
  };
  const Tensor for_decay = shift_for(0, time_maa_w), for_key = shift_for(1, time_maa_k),
               for_value = shift_for(2, time_maa_v), for_receptance = shift_for(3, time_maa_r),
               for_gate = shift_for(4, time_maa_g);
  const Tensor decay = matmul(tanh(matmul(for_decay, time_decay_w1, {}, where), where),
                              time_decay_w2, {.add = Tensor(time_decay)}, where);
  return {.r = receptance(for_receptance, where),
          .k = key(for_key, where),
          .v = value(for_value, where),
          .g = gate(for_gate, where),
          .w = pointwise(
              "rwkv_decay", [](auto d) { return exp(-exp(d)); }, decay)};
}

Tensor RWKVTimeMix::finish(const Tensor& y, const Tensor& g, Where where) const {
  Shape heads = y.shape().with(-1, options_.heads);
  heads = heads.inserted(heads.rank(), options_.size / options_.heads);
  const Tensor normal =
      reshape(layer_norm(reshape(y, heads, where), {}, {}, head_eps, where), y.shape(), where);
  return output(
      pointwise(
          "rwkv_gate",
          [](auto y, auto weight, auto bias, auto g) { return (y * weight + bias) * silu(g); },
          normal, Tensor(ln_weight), Tensor(ln_bias), g),
      where);
}

Output RWKVTimeMix::operator()(const Tensor& x, const State& state) const {
  const Projected p = project(x, state[0], Where::current());
  const std::int64_t batch = x.size(0), heads = options_.heads, size = options_.size / heads;
  const auto column = [&](const Tensor& t) { return reshape(t, {batch, heads, size, 1}); };
  const Tensor product = column(p.k) * reshape(p.v, {batch, heads, 1, size});
  const Tensor seen = state[1] + unsqueeze(time_faaaa, 2) * product;
  const Tensor y = reshape(sum(column(p.r) * seen, {2}), {batch, options_.size});
  return {finish(y, p.g, Where::current()), {x, column(p.w) * state[1] + product}};
}

std::vector<Gate> RWKVTimeMix::gates(const Tensor& x, const State& state) const {
  return {{"w", project(x, state[0], Where::current()).w, true}};
}

Output RWKVTimeMix::parallel(const Tensor& x, const State& state, const Tensor& lengths,
                             Where where) const {
  Projected p = project(x, shifted(x, state[0], where), where);
  // Behind a sequence's end nothing decays and nothing is added.
  p.w = detail::within(p.w, 1, lengths, where);
  p.k = detail::within(p.k, 0, lengths, where);
  const auto [y, last] = wkv6(p.r, p.k, p.v, p.w, time_faaaa, state[1], where);
  return {finish(y, p.g, where), {last_step(state[0], x, lengths, where), last}};
}

std::vector<Shape> RWKVTimeMix::state_shapes(std::int64_t batch) const {
  const std::int64_t size = options_.size / options_.heads;
  return {Shape{batch, options_.size}, Shape{batch, options_.heads, size, size}};
}

std::string RWKVTimeMix::describe() const {
  return fmt::format("RWKVTimeMix({}, {} heads)", options_.size, options_.heads);
}

RWKVChannelMix::RWKVChannelMix(const RWKVOptions& options, GeneratorRef g)
    : key({.in_features = options.size,
           .out_features = resolved(options).dim_feedforward,
           .bias = false},
          g),
      receptance(square(options), g),
      value({.in_features = resolved(options).dim_feedforward,
             .out_features = options.size,
             .bias = false},
            g),
      options_(resolved(options)) {
  const double high = height(options_);
  const auto mix = [&] {
    return by_channel(options_.size, [=](double x) { return 1 - std::pow(x, high); });
  };
  time_maa_k = mix();
  time_maa_r = mix();
  start_at(key, 1, g);
  start_at(receptance, into_residual(options_), g);
  start_at(value, into_residual(options_), g);
  add("time_maa_k", time_maa_k);
  add("time_maa_r", time_maa_r);
  add("key", key);
  add("receptance", receptance);
  add("value", value);
}

Tensor RWKVChannelMix::mix(const Tensor& x, const Tensor& shift, Where where) const {
  const Tensor k = pointwise(
      "relu_squared", [](auto k) { return relu(k) * relu(k); },
      key(lerp(x, shift, time_maa_k), where));
  return pointwise(
      "rwkv_receive", [](auto r, auto v) { return sigmoid(r) * v; },
      receptance(lerp(x, shift, time_maa_r), where), value(k, where));
}

Output RWKVChannelMix::operator()(const Tensor& x, const State& state) const {
  return {mix(x, state[0], Where::current()), {x}};
}

Output RWKVChannelMix::parallel(const Tensor& x, const State& state, const Tensor& lengths,
                                Where where) const {
  return {mix(x, shifted(x, state[0], where), where), {last_step(state[0], x, lengths, where)}};
}

std::vector<Shape> RWKVChannelMix::state_shapes(std::int64_t batch) const {
  return {Shape{batch, options_.size}};
}

std::string RWKVChannelMix::describe() const {
  return fmt::format("RWKVChannelMix({}, {} inside)", options_.size, options_.dim_feedforward);
}

RWKVBlock::RWKVBlock(const RWKVOptions& options, GeneratorRef g)
    : ln1(options.size),
      ln2(options.size),
      att(options, g),
      ffn(options, g),
      dropout_(std::make_unique<Dropout>(options.dropout, g)) {
  add("ln1", ln1);
  add("ln2", ln2);
  add("att", att);
  add("ffn", ffn);
  if (options.dropout > 0) add("dropout", *dropout_);
}

template <class Run>
Output RWKVBlock::both(const Tensor& x, const State& state, const Run& run) const {
  const auto drop = [&](const Tensor& y) { return dropout_->training() ? (*dropout_)(y) : y; };
  Output time = run(att, ln1(x), State{state[0], state[1]});
  const Tensor middle = x + drop(time.output);
  Output channel = run(ffn, ln2(middle), State{state[2]});
  time.state.push_back(channel.state[0]);
  return {middle + drop(channel.output), std::move(time.state)};
}

Output RWKVBlock::operator()(const Tensor& x, const State& state) const {
  return both(x, state, [](const ParallelCell& mix, const Tensor& input, const State& s) {
    return mix(input, s);
  });
}

Output RWKVBlock::parallel(const Tensor& x, const State& state, const Tensor& lengths,
                           Where where) const {
  return both(x, state, [&](const ParallelCell& mix, const Tensor& input, const State& s) {
    return mix.run(input, {.state = s, .lengths = lengths}, where);
  });
}

std::vector<Shape> RWKVBlock::state_shapes(std::int64_t batch) const {
  std::vector<Shape> shapes = att.state_shapes(batch);
  shapes.push_back(ffn.state_shapes(batch)[0]);
  return shapes;
}

}  // namespace unroll
