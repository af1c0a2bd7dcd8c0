#include <unroll/ops/arithmetic.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/table.h>

#include <fmt/format.h>

#include <cmath>

namespace unroll {
namespace {

// Sums and differences: their gradients need no inputs, which are freed early.
struct AddFn {
  static constexpr Keep keep{.inputs = 0};
  static void vjp(const AddFn&, Vjp& v) {
    for (int i : {0, 1})
      if (v.needed[i]) v.result[i] = sum_to(v.grads[0], v.inputs[i].shape());
  }
  auto operator()(auto a, auto b) const { return a + b; }
};

struct SubFn {
  static constexpr Keep keep{.inputs = 0};
  static void vjp(const SubFn&, Vjp& v) {
    if (v.needed[0]) v.result[0] = sum_to(v.grads[0], v.inputs[0].shape());
    if (v.needed[1]) v.result[1] = sum_to(-v.grads[0], v.inputs[1].shape());
  }
  auto operator()(auto a, auto b) const { return a - b; }
};

struct AffineFn {
  double scale, shift;
  static constexpr Keep keep{.inputs = 0};
  static void vjp(const AffineFn& f, Vjp& v) { v.result[0] = affine(v.grads[0], f.scale, 0); }
  auto operator()(auto x) const { return x * scale + shift; }
};

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
  v.result[0] = pointwise(PointwiseName(name, Where()), derivative, v.outputs[0], v.grads[0]);
}

struct TanhFn {
  static constexpr Keep keep{.inputs = 0, .outputs = 1};
  static void vjp(const TanhFn&, Vjp& v) {
    vjp_from_output(v, "tanh", [](auto y, auto g) { return g * (1.0 - y * y); });
  }
  auto operator()(auto x) const { return tanh(x); }
};

struct SigmoidFn {
  static constexpr Keep keep{.inputs = 0, .outputs = 1};
  static void vjp(const SigmoidFn&, Vjp& v) {
    vjp_from_output(v, "sigmoid", [](auto y, auto g) { return g * y * (1.0 - y); });
  }
  auto operator()(auto x) const { return sigmoid(x); }
};

struct ExpFn {
  static constexpr Keep keep{.inputs = 0, .outputs = 1};
  static void vjp(const ExpFn&, Vjp& v) { v.result[0] = v.grads[0] * v.outputs[0]; }
  auto operator()(auto x) const { return exp(x); }
};

// 1 where the comparison holds. It has no gradient: the result depends on no derivative.
template <class Compare>
Tensor compare(const char* name, const Where& where, Compare holds, const Tensor& a,
               const Tensor& b) {
  const NoGrad constant;
  return pointwise(PointwiseName(name, where),
                   [holds](auto x, auto y) { return simd::where(holds(x, y), x * 0.0 + 1.0, x * 0.0); },
                   a.detach(), b.detach());
}

Tensor number(const Tensor& like, double value) { return Tensor::full({}, value, like.dtype()); }

}  // namespace

Tensor add(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(PointwiseName("add", where), AddFn{}, a, b);
}
Tensor sub(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(PointwiseName("sub", where), SubFn{}, a, b);
}
Tensor mul(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(PointwiseName("mul", where), [](auto x, auto y) { return x * y; }, a, b);
}
Tensor div(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(PointwiseName("div", where), [](auto x, auto y) { return x / y; }, a, b);
}
Tensor affine(const Tensor& a, double scale, double shift, Where where) {
  return pointwise(PointwiseName("affine", where), AffineFn{scale, shift}, a);
}
Tensor operator/(double a, const Tensor& b) { return div(number(b, a), b); }

Tensor exp(const Tensor& x, Where where) {
  return pointwise(PointwiseName("exp", where), ExpFn{}, x);
}
Tensor log(const Tensor& x, Where where) {
  return pointwise(PointwiseName("log", where), [](auto v) { return log(v); }, x);
}
Tensor sqrt(const Tensor& x, Where where) {
  return pointwise(PointwiseName("sqrt", where), [](auto v) { return sqrt(v); }, x);
}
Tensor square(const Tensor& x, Where where) {
  return pointwise(PointwiseName("square", where), SquareFn{}, x);
}
Tensor abs(const Tensor& x, Where where) {
  return pointwise(PointwiseName("abs", where), [](auto v) { return abs(v); }, x);
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
  return pointwise(PointwiseName("pow", where),
                   [](auto b, auto e) { return exp(log(b) * e); }, x, exponent);
}
Tensor tanh(const Tensor& x, Where where) {
  return pointwise(PointwiseName("tanh", where), TanhFn{}, x);
}
Tensor sigmoid(const Tensor& x, Where where) {
  return pointwise(PointwiseName("sigmoid", where), SigmoidFn{}, x);
}
Tensor relu(const Tensor& x, Where where) {
  return pointwise(PointwiseName("relu", where), [](auto v) { return relu(v); }, x);
}
Tensor gelu(const Tensor& x, Where where) {
  return pointwise(PointwiseName("gelu", where), [](auto v) { return gelu(v); }, x);
}
Tensor silu(const Tensor& x, Where where) {
  return pointwise(PointwiseName("silu", where), [](auto v) { return silu(v); }, x);
}
Tensor softplus(const Tensor& x, Where where) {
  return pointwise(PointwiseName("softplus", where), [](auto v) { return softplus(v); }, x);
}
Tensor clamp(const Tensor& x, double low, double high, Where where) {
  if (!(low <= high)) fail("clamp", fmt::format("low {} is above high {}", low, high), where);
  return pointwise(PointwiseName("clamp", where),
                   [low, high](auto v) { return minimum(maximum(v, low), high); }, x);
}
Tensor maximum(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(PointwiseName("maximum", where),
                   [](auto x, auto y) { return maximum(x, y); }, a, b);
}
Tensor minimum(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(PointwiseName("minimum", where),
                   [](auto x, auto y) { return minimum(x, y); }, a, b);
}

Tensor greater(const Tensor& a, const Tensor& b, Where where) {
  return compare("greater", where, [](auto x, auto y) { return x > y; }, a, b);
}
Tensor greater(const Tensor& a, double b, Where where) { return greater(a, number(a, b), where); }
Tensor less(const Tensor& a, const Tensor& b, Where where) {
  return compare("less", where, [](auto x, auto y) { return x < y; }, a, b);
}
Tensor less(const Tensor& a, double b, Where where) { return less(a, number(a, b), where); }
Tensor equal(const Tensor& a, const Tensor& b, Where where) {
  return compare("equal", where, [](auto x, auto y) { return x == y; }, a, b);
}
Tensor equal(const Tensor& a, double b, Where where) { return equal(a, number(a, b), where); }
Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b, Where caller) {
  return pointwise(PointwiseName("where", caller),
                   [](auto m, auto x, auto y) { return where(m != 0.0, x, y); }, mask, a, b);
}

}  // namespace unroll
