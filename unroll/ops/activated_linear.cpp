#include <unroll/graph/tape.h>
#include <unroll/ops/activated_linear.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/gemm.h>
#include <unroll/ops/gemm_amx.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/table.h>

namespace unroll {
namespace {

struct Attributes {
  Activation f;
  bool bf16;  // the precision of products

  detail::ActivationKernels kernels() const { return detail::activation_kernels(f); }
};

// x [rows, in] times weight [out, in] transposed, and the ways back.
struct Products {
  Gemm forward, to_input, to_weight;
  Products(const Attributes& a, const Shape& x, std::int64_t out, bool bias) {
    const std::int64_t in = x[-1], rows = x.numel() / in;
    forward = {.transpose_b = true, .bias = bias, .bf16 = a.bf16, .m = rows, .n = out, .k = in};
    to_input = {.bf16 = a.bf16, .m = rows, .n = in, .k = out};
    to_weight = {.transpose_a = true, .bf16 = a.bf16, .m = out, .n = in, .k = rows};
  }
  // On tiles, without computing f(x) again and again, of a size that is worth it.
  bool are_on_tiles() const {
    constexpr std::int64_t least = 1 << 16;  // numbers
    return forward.m * forward.k >= least && detail::is_amx(forward) && detail::is_amx(to_input) &&
           detail::is_amx(to_weight) && detail::reads_once(forward);
  }
};

Tensor as_rows(const Tensor& x) { return reshape(x, {-1, x.shape()[-1]}); }

// dy weight f'(x).
struct ToInput : OpRecord<ToInput> {
  Attributes a;
  explicit ToInput(const Attributes& attributes) : a(attributes) {}
  const char* name() const override { return "activated_linear_backward"; }
  // in: dy, weight, x
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[2].spec(); }
  Gemm gemm_of(Args in) const {
    return Products(a, in[2].shape(), in[0].shape()[-1], false).to_input;
  }
  std::size_t workspace(Args in) const override {
    return gemm_workspace(gemm_of(in), DType::f32, {.of_c = a.kernels().backward});
  }
  void forward(Args in, std::span<Tensor> out) const override {
    gemm(gemm_of(in), {.of_c = a.kernels().backward, .gate = in[2].ptr<float>()},
         in[0].ptr<float>(), in[1].ptr<float>(), nullptr, out[0].mutable_ptr<float>());
  }
  Keep keep() const override { return {.inputs = 0b111}; }
  void vjp(Vjp& v) const override {
    const Tensor &dy = v.inputs[0], &weight = v.inputs[1], &x = v.inputs[2], &u = v.grads[0];
    const Tensor wide = matmul(dy, weight);
    const auto [by_x, by_wide] = activate_second(a.f, x, wide, u);
    if (v.needed[0]) v.result[0] = matmul(by_wide, weight, {.transpose_b = true});
    if (v.needed[1]) v.result[1] = matmul(as_rows(dy), as_rows(by_wide), {.transpose_a = true});
    if (v.needed[2]) v.result[2] = by_x;
  }
  Rows rows(Args, std::span<const bool> stacked) const override {
    return stacked[0] && !stacked[1] && stacked[2] ? Rows::map : Rows::none;
  }
};

// dy transposed f(x).
struct ToWeight : OpRecord<ToWeight> {
  Attributes a;
  explicit ToWeight(const Attributes& attributes) : a(attributes) {}
  const char* name() const override { return "activated_linear_weight_backward"; }
  // in: dy, x
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {Shape{in[0].shape()[-1], in[1].shape()[-1]}, DType::f32};
  }
  Gemm gemm_of(Args in) const {
    return Products(a, in[1].shape(), in[0].shape()[-1], false).to_weight;
  }
  GemmFunctions functions() const { return {.of_b = a.kernels().forward}; }
  std::size_t workspace(Args in) const override {
    return gemm_workspace(gemm_of(in), DType::f32, functions());
  }
  void forward(Args in, std::span<Tensor> out) const override {
    gemm(gemm_of(in), functions(), in[0].ptr<float>(), in[1].ptr<float>(), nullptr,
         out[0].mutable_ptr<float>());
  }
  Keep keep() const override { return {.inputs = 0b11}; }
  void vjp(Vjp& v) const override {
    const Tensor &dy = v.inputs[0], &x = v.inputs[1], &u = v.grads[0];
    if (v.needed[0]) v.result[0] = matmul(activate(a.f, x), u, {.transpose_b = true});
    if (v.needed[1]) v.result[1] = activate_backward(a.f, x, matmul(dy, u));
  }
  Rows rows(Args, std::span<const bool> stacked) const override {
    return stacked[0] && stacked[1] ? Rows::sum : Rows::none;
  }
};

struct ActivatedLinear : OpRecord<ActivatedLinear> {
  Attributes a;
  explicit ActivatedLinear(const Attributes& attributes) : a(attributes) {}
  const char* name() const override { return "activated_linear"; }
  // in: x, weight, (bias)
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {in[0].shape().with(-1, in[1].shape()[0]), DType::f32};
  }
  Gemm gemm_of(Args in) const {
    return Products(a, in[0].shape(), in[1].shape()[0], in.size() > 2).forward;
  }
  GemmFunctions functions() const { return {.of_a = a.kernels().forward}; }
  std::size_t workspace(Args in) const override {
    return gemm_workspace(gemm_of(in), DType::f32, functions());
  }
  void forward(Args in, std::span<Tensor> out) const override {
    gemm(gemm_of(in), functions(), in[0].ptr<float>(), in[1].ptr<float>(),
         in.size() > 2 ? in[2].ptr<float>() : nullptr, out[0].mutable_ptr<float>());
  }
  Keep keep() const override { return {.inputs = 0b11}; }
  void vjp(Vjp& v) const override {
    const Tensor &x = v.inputs[0], &weight = v.inputs[1], &dy = v.grads[0];
    const Where here = Where::current();
    if (v.inputs.size() > 2 && v.needed[2]) v.result[2] = sum_to(dy, v.inputs[2].shape());
    if (v.needed[0]) v.result[0] = apply(ToInput(a), {&dy, &weight, &x}, here);
    if (v.needed[1]) v.result[1] = apply(ToWeight(a), {&dy, &x}, here);
  }
  Rows rows(Args, std::span<const bool> stacked) const override {
    const bool shared = !stacked[1] && (stacked.size() < 3 || !stacked[2]);
    return stacked[0] && shared ? Rows::map : Rows::none;
  }
};

bool fits(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const auto f32 = [](const Tensor& t) { return t.dtype() == DType::f32; };
  return x.defined() && x.rank() > 1 && x.numel() > 0 && weight.rank() == 2 && f32(x) &&
         f32(weight) && x.shape()[-1] == weight.shape()[1] &&
         (!bias.defined() || (f32(bias) && bias.shape() == Shape{weight.shape()[0]}));
}

}  // namespace

Tensor activated_linear(Activation f, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        Where where) {
  if (fits(x, weight, bias)) {
    const Tape* const tape = Tape::current();
    const Attributes a{.f = f, .bf16 = tape != nullptr && tape->precision() == DType::bf16};
    if (Products(a, x.shape(), weight.shape()[0], bias.defined()).are_on_tiles()) {
      if (!bias.defined()) return apply(ActivatedLinear(a), {&x, &weight}, where);
      return apply(ActivatedLinear(a), {&x, &weight, &bias}, where);
    }
  }
  return linear(activate(f, x, where), weight, bias, where);
}

namespace {

using In = std::span<const Tensor>;

const RegisterOp row{{
    .name = "activated_linear",
    .signature = "activated_linear(f, x, weight, bias)",
    .summary = "linear(activate(f, x), weight, bias); large ones never have f(x) in memory",
    .samples = {normal_sample(
                    {{4, 5}, {3, 5}, {3}},
                    [](In in) { return activated_linear(Activation::gelu, in[0], in[1], in[2]); }),
                normal_sample(
                    {{2, 2, 5}, {3, 5}},
                    [](In in) { return activated_linear(Activation::relu, in[0], in[1]); })},
    .wrong = {[] {
      activated_linear(Activation::relu, Tensor::zeros({2, 3}), Tensor::zeros({4, 2}));
    }},
}};

}  // namespace

}  // namespace unroll
