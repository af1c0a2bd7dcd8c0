#include <fmt/format.h>
#include <unroll/graph/memory.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/causal_conv.h>
#include <unroll/ops/lane_loops.h>
#include <unroll/ops/samples.h>

#include <algorithm>
#include <vector>

namespace unroll {
namespace {

template <class T>
using Scratch = std::vector<T, CachedAllocator<T>>;

struct ConvShape {
  std::int64_t steps, batch, channels, taps;
  ConvShape(const Tensor& x, const Tensor& weight)
      : steps(x.size(0)), batch(x.size(1)), channels(x.size(2)), taps(weight.size(2)) {}

  // A piece is a strip of channels of the whole batch: its part of the weights stays in the first
  // cache, and its part of their gradient is its own.
  template <class F>
  void over_channels(double operations, const F& f) const {
    parallel_for(channels, 128, operations * static_cast<double>(steps * batch * channels * taps),
                 f);
  }
  // Where channel 0 of the input `back` steps before step t stands: in x, or in `past`.
  template <class T>
  T* at(T* x, T* past, std::int64_t t, std::int64_t b, std::int64_t back) const {
    const std::int64_t from = t - back;
    return from >= 0 ? x + (from * batch + b) * channels
                     : past + (b * (taps - 1) + taps - 1 + from) * channels;
  }
};

// Weights [D, 1, K] as [K, D], the latest tap first, so that a tap is read along the channels.
template <class T>
void lay_out(const ConvShape& s, const T* weight, T* laid_out) {
  for (std::int64_t d = 0; d < s.channels; ++d)
    for (std::int64_t back = 0; back < s.taps; ++back)
      laid_out[back * s.channels + d] = weight[d * s.taps + s.taps - 1 - back];
}

template <class T>
void conv(const ConvShape& s, const T* x, const T* weight, const T* bias, const T* past, T* y) {
  using L = simd::Lanes<T>;
  Scratch<T> w(static_cast<std::size_t>(s.taps * s.channels));
  lay_out(s, weight, w.data());
  s.over_channels(2, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < s.steps; ++t)
      for (std::int64_t b = 0; b < s.batch; ++b) {
        T* to = y + (t * s.batch + b) * s.channels + begin;
        for (std::int64_t back = 0; back < s.taps; ++back) {
          const T* from = s.at(x, past, t, b, back) + begin;
          const T* tap = w.data() + back * s.channels + begin;
          simd::for_lanes<T>(end - begin, [&](const auto& at) {
            const L sum = back > 0 ? at(to) : bias != nullptr ? at(bias + begin) : L();
            at.store(to, L(simd::hn::MulAdd(at(from).v, at(tap).v, sum.v)));
          });
        }
      }
  });
}

// dx_s = sum over `back` of weight_back g_(s + back), the same for `past`; dweight and dbias are
// sums over steps and batch, steps summed in T, blocks of them in double.
template <class T>
void conv_backward(const ConvShape& s, const T* x, const T* weight, const T* past, const T* g,
                   T* dx, T* dweight, T* dbias, T* dpast) {
  using L = simd::Lanes<T>;
  constexpr std::int64_t block = 64;  // rows of a sum in T
  Scratch<T> w(static_cast<std::size_t>(s.taps * s.channels));
  lay_out(s, weight, w.data());
  std::fill(dpast, dpast + s.batch * (s.taps - 1) * s.channels, T(0));
  s.over_channels(4, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t n = end - begin;
    Scratch<T> part(static_cast<std::size_t>((s.taps + 1) * n));
    Scratch<double> total(part.size(), 0.0);
    std::int64_t rows = 0;
    const auto flush = [&] {
      for (std::size_t i = 0; i < part.size(); ++i) total[i] += static_cast<double>(part[i]);
      std::fill(part.begin(), part.end(), T(0));
      rows = 0;
    };
    // Last step first: tap 0 reaches a step before any later tap does, and so sets its gradient.
    for (std::int64_t t = s.steps; t-- > 0;)
      for (std::int64_t b = 0; b < s.batch; ++b) {
        const T* grad = g + (t * s.batch + b) * s.channels + begin;
        T* sums = part.data();
        for (std::int64_t back = 0; back < s.taps; ++back) {
          const T* from = s.at(x, past, t, b, back) + begin;
          const T* tap = w.data() + back * s.channels + begin;
          T* to = s.at(dx, dpast, t, b, back) + begin;
          // The latest step that reaches `to` comes first; whichever tap it has sets.
          const bool first = back <= t && (t + 1 == s.steps || back == s.taps - 1);
          T* sum = sums + back * n;
          simd::for_lanes<T>(n, [&](const auto& at) {
            const L gv = at(grad);
            const L before = first ? L() : at(to);
            at.store(to, L(simd::hn::MulAdd(gv.v, at(tap).v, before.v)));
            at.store(sum, L(simd::hn::MulAdd(gv.v, at(from).v, at(sum).v)));
          });
        }
        T* bias_sum = sums + s.taps * n;
        simd::for_lanes<T>(n, [&](const auto& at) { at.store(bias_sum, at(bias_sum) + at(grad)); });
        if (++rows == block) flush();
      }
    flush();
    for (std::int64_t d = 0; d < n; ++d) {
      for (std::int64_t back = 0; back < s.taps; ++back)
        dweight[(begin + d) * s.taps + s.taps - 1 - back] =
            static_cast<T>(total[static_cast<std::size_t>(back * n + d)]);
      if (dbias != nullptr)
        dbias[begin + d] = static_cast<T>(total[static_cast<std::size_t>(s.taps * n + d)]);
    }
  });
}

struct CausalConvBackward : OpRecord<CausalConvBackward> {
  bool bias;
  explicit CausalConvBackward(bool has_bias) : bias(has_bias) {}
  const char* name() const override { return "causal_conv1d_backward"; }
  int outputs() const override { return bias ? 4 : 3; }
  // in: x, weight, past, gradient; out: gradients of x, weight, past, (bias)
  void infer(Args in, std::span<Spec> out) const override {
    for (std::size_t i = 0; i < 3; ++i) out[i] = in[i].spec();
    if (bias) out[3] = {Shape{in[0].size(2)}, in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      conv_backward<T>(ConvShape(in[0], in[1]), in[0].ptr<T>(), in[1].ptr<T>(), in[2].ptr<T>(),
                       in[3].ptr<T>(), out[0].mutable_ptr<T>(), out[1].mutable_ptr<T>(),
                       bias ? out[3].mutable_ptr<T>() : nullptr, out[2].mutable_ptr<T>());
    });
  }
  std::size_t workspace(Args in) const override {
    const ConvShape s(in[0], in[1]);
    return static_cast<std::size_t>(s.taps * s.channels * size_of(in[0].dtype()));
  }
  Keep keep() const override { return {.inputs = 0}; }
};

struct CausalConv : OpRecord<CausalConv> {
  const char* name() const override { return "causal_conv1d"; }
  // in: x, weight, past, (bias)
  void infer(Args in, std::span<Spec> out) const override {
    const Shape &x = in[0].shape(), &w = in[1].shape(), &past = in[2].shape();
    if (x.rank() != 3 || w.rank() != 3 || w[0] != x[2] || w[1] != 1 || w[2] < 1 ||
        past != Shape{x[1], w[2] - 1, x[2]})
      fail_shape(
          name(),
          fmt::format("x {}, weight {} and past {}", to_string(x), to_string(w), to_string(past)),
          "x is [T, B, D], weight [D, 1, K], past [B, K - 1, D]");
    if (in.size() > 3 && in[3].shape() != Shape{x[2]})
      fail_shape(name(), fmt::format("bias {} for x {}", to_string(in[3].shape()), to_string(x)),
                 "It must be one number for each channel");
    for (std::size_t i = 1; i < in.size(); ++i)
      if (in[i].dtype() != in[0].dtype())
        fail(name(), fmt::format("x {} and {}", to_string(in[0]), to_string(in[i])),
             "Convert one of them with cast()");
    out[0] = in[0].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      conv<T>(ConvShape(in[0], in[1]), in[0].ptr<T>(), in[1].ptr<T>(),
              in.size() > 3 ? in[3].ptr<T>() : nullptr, in[2].ptr<T>(), out[0].mutable_ptr<T>());
    });
  }
  std::size_t workspace(Args in) const override { return CausalConvBackward(false).workspace(in); }
  Keep keep() const override { return {.inputs = 0b111}; }
  void vjp(Vjp& v) const override {
    if (!v.grads[0].defined()) return;
    const bool bias = v.inputs.size() > 3;
    Tensor gradients[4];
    const Tensor* in[] = {&v.inputs[0], &v.inputs[1], &v.inputs[2], &v.grads[0]};
    apply(CausalConvBackward(bias), Args(in), std::span(gradients, bias ? 4 : 3), Where::current());
    for (std::size_t i = 0; i < v.needed.size(); ++i)
      if (v.needed[i]) v.result[i] = gradients[i];
  }
};

}  // namespace

Tensor causal_conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& past,
                     Where where) {
  if (bias.defined()) return apply(CausalConv(), {&x, &weight, &past, &bias}, where);
  return apply(CausalConv(), {&x, &weight, &past}, where);
}

namespace {

using In = std::span<const Tensor>;

const RegisterOp causal_conv_row{{
    .name = "causal_conv1d",
    .signature = "causal_conv1d(x, weight, bias, past)",
    .summary = "Each channel convolved along time, from the inputs before it on",
    .samples = {normal_sample({{6, 2, 19}, {19, 1, 4}, {19}, {2, 3, 19}},
                              [](In in) { return causal_conv1d(in[0], in[1], in[2], in[3]); }),
                normal_sample({{2, 2, 3}, {3, 1, 5}, {2, 4, 3}},
                              [](In in) { return causal_conv1d(in[0], in[1], {}, in[2]); }),
                normal_sample({{1, 1, 3}, {3, 1, 2}, {3}, {1, 1, 3}},
                              [](In in) { return causal_conv1d(in[0], in[1], in[2], in[3]); })},
    .wrong = {[] {
                causal_conv1d(Tensor::zeros({4, 2, 3}), Tensor::zeros({4, 1, 2}), {},
                              Tensor::zeros({2, 1, 3}));
              },
              [] {
                causal_conv1d(Tensor::zeros({4, 2, 3}), Tensor::zeros({3, 1, 2}), {},
                              Tensor::zeros({2, 2, 3}));
              },
              [] {
                causal_conv1d(Tensor::zeros({4, 2, 3}), Tensor::zeros({3, 1, 2}),
                              Tensor::zeros({2}), Tensor::zeros({2, 1, 3}));
              }},
    .twice = false,
}};

}  // namespace
}  // namespace unroll
