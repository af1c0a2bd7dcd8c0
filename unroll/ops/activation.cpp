// Functions of one tensor.
#include <fmt/format.h>
#include <unroll/ops/activation.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/table.h>

#include <cmath>

namespace unroll {
namespace {

struct PowFn {
  double exponent;
  auto operator()(auto x) const { return exp(log(x) * exponent); }
};

struct SquareFn {
  auto operator()(auto x) const { return x * x; }
};

// The gradient of a function that keeps its result: f' as a function of y is cheaper than f again.
template <class Derivative>
void vjp_from_output(Vjp& v, const char* name, Derivative derivative) {
  detail::pointwise_over(PointwiseName(name, Where()), derivative, v.pass_on(0, 0), v.outputs[0]);
}

struct TanhFn {
  static constexpr Keep keep{.inputs = 0, .outputs = 1};
  static void vjp(const TanhFn&, Vjp& v) {
    vjp_from_output(v, "tanh", [](auto g, auto y) { return g * (1.0 - y * y); });
  }
  auto operator()(auto x) const { return tanh(x); }
};

struct SigmoidFn {
  static constexpr Keep keep{.inputs = 0, .outputs = 1};
  static void vjp(const SigmoidFn&, Vjp& v) {
    vjp_from_output(v, "sigmoid", [](auto g, auto y) { return g * y * (1.0 - y); });
  }
  auto operator()(auto x) const { return sigmoid(x); }
};

struct ExpFn {
  static constexpr Keep keep{.inputs = 0, .outputs = 1};
  static void vjp(const ExpFn&, Vjp& v) {
    vjp_from_output(v, "exp", [](auto g, auto y) { return g * y; });
  }
  auto operator()(auto x) const { return exp(x); }
};

struct ReluFn {
  auto operator()(auto x) const { return relu(x); }
};

struct GeluFn {
  auto operator()(auto x) const { return gelu(x); }
};

// f and its gradient on f32 in memory, as f's op computes them.
template <class F>
detail::ActivationKernels kernels_of() {
  using Grad = detail::PointwiseGrad<F, 1, 1>;
  return {[](const float* x, float* y, std::int64_t n) {
            PointwiseOp<F, 1, 1>::template run_elements<float>(F{}, {x}, {y}, n);
          },
          [](const float* x, const float* dy, float* dx, std::int64_t n) {
            PointwiseOp<Grad, 2, 1, 1>::template run_elements<float>(Grad{}, {x, dy}, {dx}, n);
          }};
}

// A function of the activation's record.
template <class Use>
auto with_activation(Activation f, const Use& use) {
  return f == Activation::relu ? use("relu", ReluFn{}) : use("gelu", GeluFn{});
}

}  // namespace

namespace detail {
ActivationKernels activation_kernels(Activation f) {
  return with_activation(f, [](const char*, auto fn) { return kernels_of<decltype(fn)>(); });
}
}  // namespace detail

Tensor activate(Activation f, const Tensor& x, Where where) {
  return with_activation(
      f, [&](const char* name, auto fn) { return pointwise(PointwiseName(name, where), fn, x); });
}
Tensor activate_backward(Activation f, const Tensor& x, const Tensor& dy, Where where) {
  return with_activation(f, [&](const char* name, auto fn) {
    const detail::PointwiseGrad<decltype(fn), 1, 1> gradient{fn};
    return pointwise(PointwiseName(name, where), gradient, x, dy)[0];
  });
}
std::pair<Tensor, Tensor> activate_second(Activation f, const Tensor& x, const Tensor& dy,
                                          const Tensor& u, Where where) {
  return with_activation(f, [&](const char* name, auto fn) {
    using Gradient = detail::PointwiseGrad<decltype(fn), 1, 1>;
    const detail::PointwiseGrad<Gradient, 2, 1> second{Gradient{fn}};
    const auto [by_x, by_dy] = pointwise(PointwiseName(name, where), second, x, dy, u);
    return std::pair(by_x, by_dy);
  });
}

Tensor exp(const Tensor& x, Where where) {
  return pointwise(PointwiseName("exp", where), ExpFn{}, x);
}
Tensor log(const Tensor& x, Where where) {
  return pointwise(
      PointwiseName("log", where), [](auto v) { return log(v); }, x);
}
Tensor sqrt(const Tensor& x, Where where) {
  return pointwise(
      PointwiseName("sqrt", where), [](auto v) { return sqrt(v); }, x);
}
Tensor square(const Tensor& x, Where where) {
  return pointwise(PointwiseName("square", where), SquareFn{}, x);
}
Tensor abs(const Tensor& x, Where where) {
  return pointwise(
      PointwiseName("abs", where), [](auto v) { return abs(v); }, x);
}
Tensor pow(const Tensor& x, double exponent, Where where) {
  // Whole exponents by products: they hold for negative bases too, and at 0.
  if (exponent == 0) return affine(x, 0, 1, where);
  if (exponent == 1) return x;
  if (exponent == 0.5) return sqrt(x, where);
  if (exponent < 0 && exponent == std::floor(exponent)) return 1.0 / pow(x, -exponent, where);
  if (exponent == std::floor(exponent) && exponent <= 64) {
    const Tensor half = pow(x, std::floor(exponent / 2), where);
    const Tensor even = exponent < 4 ? square(x, where) : square(half, where);
    return std::fmod(exponent, 2) == 0 ? even : mul(even, x, where);
  }
  return pointwise(PointwiseName("pow", where), PowFn{exponent}, x);
}
Tensor pow(const Tensor& x, const Tensor& exponent, Where where) {
  return pointwise(
      PointwiseName("pow", where), [](auto b, auto e) { return exp(log(b) * e); }, x, exponent);
}
Tensor tanh(const Tensor& x, Where where) {
  return pointwise(PointwiseName("tanh", where), TanhFn{}, x);
}
Tensor sigmoid(const Tensor& x, Where where) {
  return pointwise(PointwiseName("sigmoid", where), SigmoidFn{}, x);
}
Tensor relu(const Tensor& x, Where where) { return activate(Activation::relu, x, where); }
Tensor gelu(const Tensor& x, Where where) { return activate(Activation::gelu, x, where); }
Tensor silu(const Tensor& x, Where where) {
  return pointwise(
      PointwiseName("silu", where), [](auto v) { return silu(v); }, x);
}
Tensor softplus(const Tensor& x, Where where) {
  return pointwise(
      PointwiseName("softplus", where), [](auto v) { return softplus(v); }, x);
}
Tensor clamp(const Tensor& x, double low, double high, Where where) {
  if (!(low <= high)) fail("clamp", fmt::format("low {} is above high {}", low, high), where);
  return pointwise(
      PointwiseName("clamp", where), [low, high](auto v) { return minimum(maximum(v, low), high); },
      x);
}

namespace {

const RegisterOp exp_row{{
    .name = "exp",
    .signature = "exp(x)",
    .summary = "e^x",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return exp(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return exp(in[0]); })},
}};
const RegisterOp log_row{{
    .name = "log",
    .signature = "log(x)",
    .summary = "Natural logarithm",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return log(square(in[0]) + 0.5); }),
                normal_sample({{2, 19}}, [](auto in) { return log(square(in[0]) + 0.5); })},
}};
const RegisterOp sqrt_row{{
    .name = "sqrt",
    .signature = "sqrt(x)",
    .summary = "Square root",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return sqrt(square(in[0]) + 0.5); }),
                normal_sample({{2, 19}}, [](auto in) { return sqrt(square(in[0]) + 0.5); })},
}};
const RegisterOp square_row{{
    .name = "square",
    .signature = "square(x)",
    .summary = "x^2",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return square(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return square(in[0]); })},
}};
const RegisterOp abs_row{{
    .name = "abs",
    .signature = "abs(x)",
    .summary = "|x|",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return abs(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return abs(in[0]); })},
}};
const RegisterOp tanh_row{{
    .name = "tanh",
    .signature = "tanh(x)",
    .summary = "Hyperbolic tangent",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return tanh(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return tanh(in[0]); })},
}};
const RegisterOp sigmoid_row{{
    .name = "sigmoid",
    .signature = "sigmoid(x)",
    .summary = "1 / (1 + e^-x)",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return sigmoid(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return sigmoid(in[0]); })},
}};
const RegisterOp relu_row{{
    .name = "relu",
    .signature = "relu(x)",
    .summary = "max(x, 0)",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return relu(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return relu(in[0]); })},
}};
const RegisterOp gelu_row{{
    .name = "gelu",
    .signature = "gelu(x)",
    .summary = "x Phi(x), with the error function",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return gelu(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return gelu(in[0]); })},
}};
const RegisterOp silu_row{{
    .name = "silu",
    .signature = "silu(x)",
    .summary = "x sigmoid(x)",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return silu(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return silu(in[0]); })},
}};
const RegisterOp softplus_row{{
    .name = "softplus",
    .signature = "softplus(x)",
    .summary = "log(1 + e^x)",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return softplus(in[0]); }),
                normal_sample({{2, 19}}, [](auto in) { return softplus(in[0]); })},
}};
const RegisterOp pow_row{{
    .name = "pow",
    .signature = "pow(x, exponent)",
    .summary = "x to a number or a tensor; whole exponents take negative x",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return pow(in[0], 3); }),
                normal_sample({{3, 5}}, [](auto in) { return pow(in[0], 6); }),
                normal_sample({{7}}, [](auto in) { return pow(square(in[0]) + 0.5, -2); }),
                normal_sample({{7}}, [](auto in) { return pow(square(in[0]) + 0.5, 1.7); }),
                normal_sample({{7}, {7}}, [](auto in) { return pow(square(in[0]) + 0.5, in[1]); })},
}};
const RegisterOp clamp_row{{
    .name = "clamp",
    .signature = "clamp(x, low, high)",
    .summary = "x held within two numbers",
    .samples = {normal_sample({{3, 7}}, [](auto in) { return clamp(in[0], -0.5, 1.0); }),
                normal_sample({{21}}, [](auto in) { return clamp(in[0], 0.0, 0.0); })},
}};

}  // namespace

}  // namespace unroll
