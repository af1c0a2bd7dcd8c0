#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/norm.h>
#include <unroll/ops/norm_kernels.h>
#include <unroll/ops/samples.h>

#include <array>

namespace unroll {
namespace {

// Which of the optional inputs a call has, behind x, in this order.
struct Parts {
  bool centred, added, weight, bias;

  const char* name() const {
    if (added) return centred ? "add_layer_norm" : "add_rms_norm";
    return centred ? "layer_norm" : "rms_norm";
  }
  std::size_t weight_at() const { return added ? 2 : 1; }
  std::size_t bias_at() const { return weight_at() + (weight ? 1 : 0); }
  detail::NormShape shape(const Tensor& x) const {
    const std::int64_t width = x.size(-1);
    return {.rows = width == 0 ? 0 : x.numel() / width, .width = width, .centred = centred};
  }
};

// The gradient of x. It treats rows by themselves; the parameters' gradients sum over them. Two
// records, so that a loop over time can take the second out.
struct NormBackward : OpRecord<NormBackward> {
  Parts parts;
  bool direct;  // does a gradient reach x past the norm?
  NormBackward(const Parts& p, bool d) : parts(p), direct(d) {}

  const char* name() const override {
    return parts.centred ? "layer_norm_backward" : "rms_norm_backward";
  }
  // in: x, mean, rstd, gradient, (weight), (direct gradient)
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[0].spec(); }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      detail::norm_backward(parts.shape(in[0]), in[0].ptr<T>(),
                            parts.weight ? in[4].ptr<T>() : nullptr, in[1].ptr<T>(), in[2].ptr<T>(),
                            in[3].ptr<T>(), direct ? in[in.size() - 1].ptr<T>() : nullptr,
                            out[0].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    const bool data = stacked[0] && stacked[1] && stacked[2] && stacked[3] &&
                      (!direct || stacked[stacked.size() - 1]);
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
  // y, each row's mean and 1 / deviation, and the sum where something was added
  int outputs() const override { return parts.added ? 4 : 3; }
  // in: x, (added), (weight), (bias)
  void infer(Args in, std::span<Spec> out) const override {
    const Shape& x = in[0].shape();
    if (x.rank() < 1) fail_shape(name(), "x [] has no axis to normalise");
    if (parts.added && in[1].shape() != x)
      fail_shape(name(),
                 fmt::format("x {} and what is added {}", to_string(x), to_string(in[1].shape())));
    for (std::size_t i = parts.weight_at(); i < in.size(); ++i) {
      const char* what = i == parts.weight_at() && parts.weight ? "weight" : "bias";
      if (in[i].shape() != Shape{x[-1]})
        fail_shape(name(),
                   fmt::format("{} {} for x {}", what, to_string(in[i].shape()), to_string(x)),
                   fmt::format("It must be [{}], the last axis of x", x[-1]));
    }
    for (std::size_t i = 1; i < in.size(); ++i)
      if (in[i].dtype() != in[0].dtype())
        fail(name(), fmt::format("x {} and {}", to_string(in[0]), to_string(in[i])),
             "Convert one of them with cast()");
    out[0] = in[0].spec();
    out[1] = out[2] = {x.without(-1), in[0].dtype()};
    if (parts.added) out[3] = in[0].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      detail::NormAddend<T> addend;
      if (parts.added) addend = {in[1].ptr<T>(), out[3].mutable_ptr<T>()};
      detail::norm(parts.shape(in[0]), eps, in[0].ptr<T>(), addend,
                   parts.weight ? in[parts.weight_at()].ptr<T>() : nullptr,
                   parts.bias ? in[parts.bias_at()].ptr<T>() : nullptr, out[0].mutable_ptr<T>(),
                   out[1].mutable_ptr<T>(), out[2].mutable_ptr<T>());
    });
  }
  Keep keep() const override {
    const std::uint32_t weight = parts.weight ? 1u << parts.weight_at() : 0u;
    if (parts.added) return {.inputs = weight, .outputs = 0b1110};
    return {.inputs = weight | 1u, .outputs = 0b110};
  }
  void vjp(Vjp& v) const override {
    const Tensor& g = v.grads[0];
    const Tensor direct = parts.added ? v.grads[3] : Tensor();
    if (!g.defined()) {
      if (parts.added) v.result[0] = v.result[1] = direct;
      return;
    }
    const Tensor& x = parts.added ? v.outputs[3] : v.inputs[0];
    const Tensor* operands[] = {&x, &v.outputs[1], &v.outputs[2], &g, nullptr, nullptr};
    std::size_t count = 4;
    if (v.needed[0] || (parts.added && v.needed[1])) {
      if (parts.weight) operands[count++] = &v.inputs[parts.weight_at()];
      if (direct.defined()) operands[count++] = &direct;
      Tensor gradient;
      apply(NormBackward(parts, direct.defined()), Args({operands, count}), std::span(&gradient, 1),
            Where::current());
      if (parts.added) v.result[1] = gradient;
      v.result[0] = std::move(gradient);
    }
    bool wanted = false;
    for (std::size_t i = parts.weight_at(); i < v.needed.size(); ++i)
      wanted = wanted || v.needed[i];
    if (!wanted) return;
    Tensor gradients[2];
    apply(NormParametersBackward(parts), Args({operands, 4}),
          std::span(gradients, parts.bias ? 2 : 1), Where::current());
    if (parts.weight) v.result[parts.weight_at()] = gradients[0];
    if (parts.bias) v.result[parts.bias_at()] = gradients[1];
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    bool parameters = false;
    for (std::size_t i = parts.weight_at(); i < stacked.size(); ++i)
      parameters = parameters || stacked[i];
    return stacked[0] && (!parts.added || stacked[1]) && !parameters && in[0].rank() > 1
               ? Rows::map
               : Rows::none;
  }
};

// The results of Norm.
std::array<Tensor, 4> normalise(bool centred, const Tensor& x, const Tensor* added,
                                const Tensor& weight, const Tensor& bias, double eps,
                                const Where& where) {
  const Parts parts{centred, added != nullptr, weight.defined(), bias.defined()};
  const Tensor* inputs[4] = {&x};
  std::size_t count = 1;
  if (parts.added) inputs[count++] = added;
  if (parts.weight) inputs[count++] = &weight;
  if (parts.bias) inputs[count++] = &bias;
  std::array<Tensor, 4> results;
  const Norm op(parts, eps);
  apply(op, Args({inputs, count}), std::span(results).first(parts.added ? 4 : 3), where);
  return results;
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                  Where where) {
  return normalise(true, x, nullptr, weight, bias, eps, where)[0];
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, Where where) {
  return normalise(false, x, nullptr, weight, {}, eps, where)[0];
}

ResidualNorm add_layer_norm(const Tensor& x, const Tensor& added, const Tensor& weight,
                            const Tensor& bias, double eps, Where where) {
  auto results = normalise(true, x, &added, weight, bias, eps, where);
  return {std::move(results[3]), std::move(results[0])};
}

ResidualNorm add_rms_norm(const Tensor& x, const Tensor& added, const Tensor& weight, double eps,
                          Where where) {
  auto results = normalise(false, x, &added, weight, {}, eps, where);
  return {std::move(results[3]), std::move(results[0])};
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

// Both results, weighed differently.
Tensor mixed(const ResidualNorm& r) { return r.sum * 0.7 + r.normed; }

const RegisterOp add_layer_norm_row{{
    .name = "add_layer_norm",
    .signature = "add_layer_norm(x, added, weight = {}, bias = {}, eps = 1e-5)",
    .summary = "x + added, and its layer norm, in one pass over memory",
    .samples = {normal_sample(
                    {{3, 19}, {3, 19}, {19}, {19}},
                    [](In in) { return mixed(add_layer_norm(in[0], in[1], in[2], in[3])); }),
                normal_sample({{2, 3, 5}, {2, 3, 5}, {5}},
                              [](In in) { return add_layer_norm(in[0], in[1], in[2]).normed; }),
                normal_sample({{2, 7}, {2, 7}},
                              [](In in) { return add_layer_norm(in[0], in[1]).sum; })},
    .wrong = {[] {
                add_layer_norm(Tensor::zeros({2, 3}), Tensor::zeros({3}));
              },
              [] {
                add_layer_norm(Tensor::zeros({2, 3}), Tensor::zeros({2, 3}), Tensor::zeros({2}));
              }},
    .twice = false,
}};

const RegisterOp add_rms_norm_row{{
    .name = "add_rms_norm",
    .signature = "add_rms_norm(x, added, weight = {}, eps = 1e-5)",
    .summary = "x + added, and its RMS norm, in one pass over memory",
    .samples = {normal_sample({{3, 19}, {3, 19}, {19}},
                              [](In in) { return mixed(add_rms_norm(in[0], in[1], in[2])); }),
                normal_sample({{7}, {7}}, [](In in) { return mixed(add_rms_norm(in[0], in[1])); })},
    .wrong = {[] {
      add_rms_norm(Tensor::zeros({2, 3}), Tensor::zeros({2, 3}), Tensor::zeros({2}));
    }},
    .twice = false,
}};

}  // namespace
}  // namespace unroll
