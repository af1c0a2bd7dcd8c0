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

// x [rows, in] times weight [out, in] transposed, with f applied to x.
struct Sizes {
  Activation f;
  bool bf16;
  std::int64_t rows, in, out;

  Gemm forward(bool bias) const {
    return {.transpose_b = true, .bias = bias, .bf16 = bf16, .m = rows, .n = out, .k = in};
  }
  Gemm to_input() const { return {.bf16 = bf16, .m = rows, .n = in, .k = out}; }
  Gemm to_weight() const {
    return {.transpose_a = true, .bf16 = bf16, .m = out, .n = in, .k = rows};
  }
  detail::ActivationKernels kernels() const { return detail::activation_kernels(f); }
};

// dy times weight, times f'(x).
struct ToInput : OpRecord<ToInput> {
  Sizes sizes;
  explicit ToInput(const Sizes& s) : sizes(s) {}
  const char* name() const override { return "activated_linear_backward"; }
  bool differentiable() const override { return false; }
  // in: dy, weight, x
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[2].spec(); }
  GemmFunctions functions(Args in) const {
    return {.of_c = sizes.kernels().backward, .gate = in[2].ptr<float>()};
  }
  std::size_t workspace(Args) const override {
    return gemm_workspace(sizes.to_input(), DType::f32, {.of_c = sizes.kernels().backward});
  }
  void forward(Args in, std::span<Tensor> out) const override {
    gemm(sizes.to_input(), functions(in), in[0].ptr<float>(), in[1].ptr<float>(), nullptr,
         out[0].mutable_ptr<float>());
  }
};

// dy transposed times f(x).
struct ToWeight : OpRecord<ToWeight> {
  Sizes sizes;
  explicit ToWeight(const Sizes& s) : sizes(s) {}
  const char* name() const override { return "activated_linear_weight_backward"; }
  bool differentiable() const override { return false; }
  // in: dy, x
  void infer(Args, std::span<Spec> out) const override {
    out[0] = {Shape{sizes.out, sizes.in}, DType::f32};
  }
  GemmFunctions functions() const { return {.of_b = sizes.kernels().forward}; }
  std::size_t workspace(Args) const override {
    return gemm_workspace(sizes.to_weight(), DType::f32, functions());
  }
  void forward(Args in, std::span<Tensor> out) const override {
    gemm(sizes.to_weight(), functions(), in[0].ptr<float>(), in[1].ptr<float>(), nullptr,
         out[0].mutable_ptr<float>());
  }
};

struct ActivatedLinear : OpRecord<ActivatedLinear> {
  Sizes sizes;
  explicit ActivatedLinear(const Sizes& s) : sizes(s) {}
  const char* name() const override { return "activated_linear"; }
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {in[0].shape().with(-1, sizes.out), DType::f32};
  }
  GemmFunctions functions() const { return {.of_a = sizes.kernels().forward}; }
  std::size_t workspace(Args in) const override {
    return gemm_workspace(sizes.forward(in.size() > 2), DType::f32, functions());
  }
  void forward(Args in, std::span<Tensor> out) const override {
    gemm(sizes.forward(in.size() > 2), functions(), in[0].ptr<float>(), in[1].ptr<float>(),
         in.size() > 2 ? in[2].ptr<float>() : nullptr, out[0].mutable_ptr<float>());
  }
  Keep keep() const override { return {.inputs = 0b11}; }

  void vjp(Vjp& v) const override {
    const Tensor &x = v.inputs[0], &weight = v.inputs[1], &dy = v.grads[0];
    if (v.inputs.size() > 2 && v.needed[2]) v.result[2] = sum_to(dy, v.inputs[2].shape());
    const Where here = Where::current();
    if (Tape::current() == nullptr) {
      if (v.needed[0]) v.result[0] = apply(ToInput(sizes), {&dy, &weight, &x}, here);
      if (v.needed[1]) v.result[1] = apply(ToWeight(sizes), {&dy, &x}, here);
      return;
    }
    // To be differentiated again.
    const auto rows = [](const Tensor& t) { return reshape(t, {-1, t.shape()[-1]}); };
    if (v.needed[0]) v.result[0] = activate_backward(sizes.f, x, matmul(dy, weight));
    if (v.needed[1])
      v.result[1] = matmul(rows(dy), rows(activate(sizes.f, x)), {.transpose_a = true});
  }
};

// On tiles, of a size that is worth it. What is traced stays two ops, which a loop over time can
// take apart.
bool is_together(const Sizes& s, const Tape* tape) {
  constexpr std::int64_t least = 1 << 16;  // numbers
  return s.rows * s.in >= least && (tape == nullptr || !tape->traces()) &&
         detail::is_amx(s.forward(false)) && detail::is_amx(s.to_input()) &&
         detail::is_amx(s.to_weight()) && detail::reads_once(s.forward(false));
}

}  // namespace

Tensor activated_linear(Activation f, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        Where where) {
  const Tape* const tape = Tape::current();
  const bool fits =
      x.rank() > 1 && weight.rank() == 2 && x.dtype() == DType::f32 &&
      weight.dtype() == DType::f32 && x.shape()[-1] == weight.shape()[1] && x.numel() > 0 &&
      (!bias.defined() || (bias.dtype() == DType::f32 && bias.shape() == Shape{weight.shape()[0]}));
  if (fits) {
    const ActivatedLinear op({.f = f,
                              .bf16 = tape != nullptr && tape->precision() == DType::bf16,
                              .rows = x.numel() / x.shape()[-1],
                              .in = x.shape()[-1],
                              .out = weight.shape()[0]});
    if (is_together(op.sizes, tape)) {
      if (!bias.defined()) return apply(op, {&x, &weight}, where);
      return apply(op, {&x, &weight, &bias}, where);
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
