#include <unroll/ops/arithmetic.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/table.h>

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
  static void vjp(const AffineFn& f, Vjp& v) {
    detail::pointwise_over("affine", AffineFn{f.scale, 0}, v.pass_on(0, 0));
  }
  auto operator()(auto x) const { return x * scale + shift; }
};

Tensor number(const Tensor& like, double value) { return Tensor::full({}, value, like.dtype()); }

}  // namespace

Tensor add(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(PointwiseName("add", where), AddFn{}, a, b);
}
Tensor sub(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(PointwiseName("sub", where), SubFn{}, a, b);
}
Tensor mul(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(
      PointwiseName("mul", where), [](auto x, auto y) { return x * y; }, a, b);
}
Tensor div(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(
      PointwiseName("div", where), [](auto x, auto y) { return x / y; }, a, b);
}
Tensor affine(const Tensor& a, double scale, double shift, Where where) {
  return pointwise(PointwiseName("affine", where), AffineFn{scale, shift}, a);
}
Tensor operator/(double a, const Tensor& b) { return div(number(b, a), b); }

Tensor maximum(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(
      PointwiseName("maximum", where), [](auto x, auto y) { return maximum(x, y); }, a, b);
}
Tensor minimum(const Tensor& a, const Tensor& b, Where where) {
  return pointwise(
      PointwiseName("minimum", where), [](auto x, auto y) { return minimum(x, y); }, a, b);
}

namespace {

const RegisterOp add_row{{
    .name = "add",
    .signature = "add(a, b)",
    .summary = "a + b",
    .samples = {normal_sample({{3, 5}, {3, 5}}, [](auto in) { return add(in[0], in[1]); }),
                normal_sample({{2, 3, 4}, {4}}, [](auto in) { return add(in[0], in[1]); }),
                normal_sample({{3, 1}, {2, 1, 17}}, [](auto in) { return add(in[0], in[1]); })},
    .wrong = {[] {
      add(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
}};
const RegisterOp sub_row{{
    .name = "sub",
    .signature = "sub(a, b)",
    .summary = "a - b",
    .samples = {normal_sample({{3, 5}, {3, 5}}, [](auto in) { return sub(in[0], in[1]); }),
                normal_sample({{2, 3, 4}, {4}}, [](auto in) { return sub(in[0], in[1]); }),
                normal_sample({{3, 1}, {2, 1, 17}}, [](auto in) { return sub(in[0], in[1]); })},
    .wrong = {[] {
      sub(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
}};
const RegisterOp mul_row{{
    .name = "mul",
    .signature = "mul(a, b)",
    .summary = "a * b",
    .samples = {normal_sample({{3, 5}, {3, 5}}, [](auto in) { return mul(in[0], in[1]); }),
                normal_sample({{2, 3, 4}, {4}}, [](auto in) { return mul(in[0], in[1]); }),
                normal_sample({{3, 1}, {2, 1, 17}}, [](auto in) { return mul(in[0], in[1]); })},
    .wrong = {[] {
      mul(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
}};
const RegisterOp div_row{{
    .name = "div",
    .signature = "div(a, b)",
    .summary = "a / b",
    .samples = {normal_sample({{3, 5}, {3, 5}},
                              [](auto in) { return div(in[0], square(in[1]) + 1.0); }),
                normal_sample({{2, 3, 4}, {4}},
                              [](auto in) { return div(in[0], square(in[1]) + 1.0); }),
                normal_sample({{3, 1}, {2, 1, 17}},
                              [](auto in) { return div(in[0], square(in[1]) + 1.0); })},
    .wrong = {[] {
      div(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
}};
const RegisterOp maximum_row{{
    .name = "maximum",
    .signature = "maximum(a, b)",
    .summary = "The larger of two",
    .samples = {normal_sample({{3, 5}, {3, 5}}, [](auto in) { return maximum(in[0], in[1]); }),
                normal_sample({{2, 3, 4}, {4}}, [](auto in) { return maximum(in[0], in[1]); }),
                normal_sample({{3, 1}, {2, 1, 17}}, [](auto in) { return maximum(in[0], in[1]); })},
    .wrong = {[] {
      maximum(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
}};
const RegisterOp minimum_row{{
    .name = "minimum",
    .signature = "minimum(a, b)",
    .summary = "The smaller of two",
    .samples = {normal_sample({{3, 5}, {3, 5}}, [](auto in) { return minimum(in[0], in[1]); }),
                normal_sample({{2, 3, 4}, {4}}, [](auto in) { return minimum(in[0], in[1]); }),
                normal_sample({{3, 1}, {2, 1, 17}}, [](auto in) { return minimum(in[0], in[1]); })},
    .wrong = {[] {
      minimum(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
}};
const RegisterOp affine_row{{
    .name = "affine",
    .signature = "affine(x, scale, shift)",
    .summary = "x scale + shift; what x + 1.0, 2.0 * x and -x are",
    .samples = {normal_sample({{3, 5}}, [](auto in) { return affine(in[0], -1.5, 0.25); }),
                normal_sample({{33}}, [](auto in) { return 1.0 - in[0] / 3.0; })},
}};

}  // namespace

}  // namespace unroll
