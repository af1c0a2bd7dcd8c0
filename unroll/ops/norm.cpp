#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/norm.h>
#include <unroll/ops/norm_kernels.h>
#include <unroll/ops/samples.h>

namespace unroll {
namespace {

// Which of the optional inputs a call has, behind x.
struct Parts {
  bool centred, weight, bias;

  const char* name() const { return centred ? "layer_norm" : "rms_norm"; }
  detail::NormShape shape(const Tensor& x) const {
    const std::int64_t width = x.size(-1);
    return {.rows = width == 0 ? 0 : x.numel() / width, .width = width, .centred = centred};
  }
};

// The gradient of x. It treats rows by themselves; the parameters' gradients sum over them. Two
// records, so that a loop over time can take the second out.
struct NormBackward : OpRecord<NormBackward> {
  Parts parts;
  explicit NormBackward(const Parts& p) : parts(p) {}

  const char* name() const override {
    return parts.centred ? "layer_norm_backward" : "rms_norm_backward";
  }
  // in: x, mean, rstd, gradient, (weight)
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[0].spec(); }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      detail::norm_backward(parts.shape(in[0]), in[0].ptr<T>(),
                            parts.weight ? in[4].ptr<T>() : nullptr, in[1].ptr<T>(), in[2].ptr<T>(),
                            in[3].ptr<T>(), out[0].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    const bool data = stacked[0] && stacked[1] && stacked[2] && stacked[3];
    return data && in[0].rank() > 1 && !(parts.weight && stacked[4]) ? Rows::map : Rows::none;
  }
};

struct NormParametersBackward : OpRecord<NormParametersBackward> {
  Parts parts;
  explicit NormParametersBackward(const Parts& p) : parts(p) {}

  const char* name() const override {
    return parts.centred ? "layer_norm_parameters_backward" : "rms_norm_parameters_backward";
  }
  int outputs() const override { return parts.bias ? 2 : 1; }
  // in: x, mean, rstd, gradient; out: gradients of weight and bias
  void infer(Args in, std::span<Spec> out) const override {
    for (Spec& spec : out) spec = {Shape{in[0].size(-1)}, in[0].dtype()};
  }
  std::size_t workspace(Args in) const override {
    const detail::NormShape s = parts.shape(in[0]);
    if (s.width == 0) return 0;
    const std::int64_t block = detail::norm_block(s.width);
    return static_cast<std::size_t>((s.rows + block - 1) / block * 2 * s.width *
                                    size_of(in[0].dtype()));
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      detail::norm_parameters_backward(parts.shape(in[0]), in[0].ptr<T>(), in[1].ptr<T>(),
                                       in[2].ptr<T>(), in[3].ptr<T>(), out[0].mutable_ptr<T>(),
                                       out.size() > 1 ? out[1].mutable_ptr<T>() : nullptr);
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    return stacked[0] && stacked[1] && stacked[2] && stacked[3] && in[0].rank() > 1 ? Rows::sum
                                                                                    : Rows::none;
  }
};

struct Norm : OpRecord<Norm> {
  Parts parts;
  double eps;
  Norm(const Parts& p, double e) : parts(p), eps(e) {}

  const char* name() const override { return parts.name(); }
  int outputs() const override { return 3; }  // y, and each row's mean and 1 / deviation
  // in: x, (weight), (bias)
  void infer(Args in, std::span<Spec> out) const override {
    const Shape& x = in[0].shape();
    if (x.rank() < 1) fail_shape(name(), "x [] has no axis to normalise");
    for (std::size_t i = 1; i < in.size(); ++i) {
      const char* what = i == 1 && parts.weight ? "weight" : "bias";
      if (in[i].shape() != Shape{x[-1]})
        fail_shape(name(),
                   fmt::format("{} {} for x {}", what, to_string(in[i].shape()), to_string(x)),
                   fmt::format("It must be [{}], the last axis of x", x[-1]));
      if (in[i].dtype() != in[0].dtype())
        fail(name(), fmt::format("x {} and {} {}", to_string(in[0]), what, to_string(in[i])),
             "Convert one of them with to()");
    }
    out[0] = in[0].spec();
    out[1] = out[2] = {x.without(-1), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      const std::size_t bias = parts.weight ? 2 : 1;
      detail::norm(parts.shape(in[0]), eps, in[0].ptr<T>(), parts.weight ? in[1].ptr<T>() : nullptr,
                   parts.bias ? in[bias].ptr<T>() : nullptr, out[0].mutable_ptr<T>(),
                   out[1].mutable_ptr<T>(), out[2].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = parts.weight ? 0b11u : 0b1u, .outputs = 0b110}; }
  void vjp(Vjp& v) const override {
    const Tensor &x = v.inputs[0], &g = v.grads[0];
    if (!g.defined()) return;
    if (v.needed[0]) {
      const NormBackward op(parts);
      v.result[0] =
          parts.weight
              ? apply(op, {&x, &v.outputs[1], &v.outputs[2], &g, &v.inputs[1]}, Where::current())
              : apply(op, {&x, &v.outputs[1], &v.outputs[2], &g}, Where::current());
    }
    bool wanted = false;
    for (std::size_t i = 1; i < v.needed.size(); ++i) wanted = wanted || v.needed[i];
    if (!wanted) return;
    Tensor gradients[2];
    const Tensor* inputs[] = {&x, &v.outputs[1], &v.outputs[2], &g};
    apply(NormParametersBackward(parts), Args(inputs), std::span(gradients, parts.bias ? 2 : 1),
          Where::current());
    std::size_t i = 1;
    if (parts.weight) v.result[i++] = gradients[0];
    if (parts.bias) v.result[i] = gradients[1];
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    bool parameters = false;
    for (std::size_t i = 1; i < stacked.size(); ++i) parameters = parameters || stacked[i];
    return stacked[0] && !parameters && in[0].rank() > 1 ? Rows::map : Rows::none;
  }
};

Tensor normalise(bool centred, const Tensor& x, const Tensor& weight, const Tensor& bias,
                 double eps, const Where& where) {
  const Parts parts{centred, weight.defined(), bias.defined()};
  const Tensor* inputs[3] = {&x};
  std::size_t count = 1;
  if (parts.weight) inputs[count++] = &weight;
  if (parts.bias) inputs[count++] = &bias;
  Tensor results[3];
  apply(Norm(parts, eps), Args({inputs, count}), results, where);
  return results[0];
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                  Where where) {
  return normalise(true, x, weight, bias, eps, where);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, Where where) {
  return normalise(false, x, weight, {}, eps, where);
}

namespace {

using In = std::span<const Tensor>;

const RegisterOp layer_norm_row{{
    .name = "layer_norm",
    .signature = "layer_norm(x, weight = {}, bias = {}, eps = 1e-5)",
    .summary = "The last axis with mean 0 and variance 1, times weight, plus bias",
    .samples = {normal_sample({{3, 19}, {19}, {19}},
                              [](In in) { return layer_norm(in[0], in[1], in[2]); }),
                normal_sample({{2, 3, 5}, {5}}, [](In in) { return layer_norm(in[0], in[1]); }),
                normal_sample({{2, 2, 2, 4}, {4}},
                              [](In in) { return layer_norm(in[0], {}, in[1], 0.1); }),
                normal_sample({{7}}, [](In in) { return layer_norm(in[0]); })},
    .wrong = {[] {
                layer_norm(Tensor::zeros({2, 3}), Tensor::zeros({2}));
              },
              [] {
                layer_norm(Tensor::zeros({2, 3}), Tensor::zeros({3}), Tensor::zeros({1, 3}));
              },
              [] { layer_norm(Tensor::zeros({})); }},
    .twice = false,
}};

const RegisterOp rms_norm_row{{
    .name = "rms_norm",
    .signature = "rms_norm(x, weight = {}, eps = 1e-5)",
    .summary = "The last axis with mean square 1, times weight",
    .samples = {normal_sample({{3, 19}, {19}}, [](In in) { return rms_norm(in[0], in[1]); }),
                normal_sample({{2, 3, 5}, {5}}, [](In in) { return rms_norm(in[0], in[1], 0.1); }),
                normal_sample({{7}}, [](In in) { return rms_norm(in[0]); })},
    .wrong = {[] {
                rms_norm(Tensor::zeros({2, 3}), Tensor::zeros({2}));
              },
              [] { rms_norm(Tensor::zeros({})); }},
    .twice = false,
}};

}  // namespace
}  // namespace unroll
