#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/check.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/reduce_kernels.h>
#include <unroll/ops/samples.h>

#include <algorithm>
#include <cmath>

namespace unroll {
namespace {

/// A set of axes, counted from 0.
class AxisSet {
 public:
  AxisSet() = default;
  AxisSet(const char* op, const Tensor& x, const std::vector<int>& axes, const Where& where) {
    for (int axis : axes) {
      const unsigned bit = 1u << checked_axis(op, x, axis, where);
      if ((bits_ & bit) != 0)
        fail_shape_at(op, fmt::format("axis {} of x {} is named twice", axis, to_string(x.shape())),
                      where);
      bits_ |= bit;
    }
    if (axes.empty()) bits_ = (1u << x.rank()) - 1;
  }

  bool has(int axis) const { return ((bits_ >> axis) & 1u) != 0; }
  void add(int axis) { bits_ |= 1u << axis; }

  Shape reduced(const Shape& x, bool keep_dims) const {
    Shape result = x;
    for (int axis = x.rank() - 1; axis >= 0; --axis) {
      if (!has(axis)) continue;
      result = keep_dims ? result.with(axis, 1) : result.without(axis);
    }
    return result;
  }

  std::int64_t count(const Shape& x) const {
    std::int64_t product = 1;
    for (int axis = 0; axis < x.rank(); ++axis)
      if (has(axis)) product *= x[axis];
    return product;
  }

 private:
  unsigned bits_ = 0;
};

/// Calls kernel(from, reduction, to) for each run of neighbouring axes, the last run first, until
/// the result is in `out` (whose shape is of no concern).
template <class T, class Kernel>
void reduce_axes(const Tensor& x, const AxisSet& axes, Tensor& out, const Kernel& kernel) {
  Tensor from = x;
  int axis = x.rank() - 1;
  while (true) {
    // Axes of size 1 belong to any run.
    const auto goes = [&](int i) { return axes.has(i) || from.size(i) == 1; };
    while (axis >= 0 && (!axes.has(axis) || from.size(axis) == 1)) --axis;
    detail::ReduceShape r;
    for (int i = axis + 1; i < x.rank(); ++i) r.inner *= from.size(i);
    Shape shape = from.shape();
    for (; axis >= 0 && goes(axis); --axis) {
      r.count *= from.size(axis);
      shape[axis] = 1;
    }
    for (int i = 0; i <= axis; ++i) r.outer *= from.size(i);
    bool more = false;
    for (int i = 0; i <= axis; ++i) more = more || (axes.has(i) && from.size(i) != 1);
    Tensor to = more ? Tensor::empty(shape, x.dtype()) : out;
    kernel(from.ptr<T>(), r, to.mutable_ptr<T>());
    if (!more) return;
    from = std::move(to);
  }
}

template <class T>
void sum_into(const Tensor& x, const AxisSet& axes, Tensor& out) {
  if (x.numel() == 0) {
    std::fill_n(out.mutable_ptr<T>(), out.numel(), T(0));
    return;
  }
  reduce_axes<T>(x, axes, out, detail::reduce<detail::SumKernel<T>, T>);
}

// What the records of all reductions share.
template <class Self>
struct Reduce : OpRecord<Self> {
  AxisSet axes;
  bool keep_dims = false;

  Reduce(const AxisSet& over, bool keep) : axes(over), keep_dims(keep) {}

  void infer(Args in, std::span<Spec> out) const override {
    if (!is_float(in[0].dtype()))
      fail(this->name(), fmt::format("needs f32 or f64, got {}", to_string(in[0])));
    out[0] = {axes.reduced(in[0].shape(), keep_dims), in[0].dtype()};
  }
  /// A tensor of the result's shape as it would be with keep_dims.
  Tensor kept(const Tensor& result, const Shape& x) const {
    return keep_dims ? result : reshape(result, axes.reduced(x, true));
  }
};

// Max and logsumexp have no value for nothing.
void check_not_empty(const char* op, const AxisSet& axes, const Shape& x) {
  if (axes.count(x) == 0) fail_shape(op, fmt::format("nothing to reduce in x {}", to_string(x)));
}

struct Sum : Reduce<Sum> {
  using Reduce::Reduce;
  const char* name() const override { return "sum"; }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(),
               [&](auto zero) { sum_into<decltype(zero)>(in[0], axes, out[0]); });
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override {
    const Shape& x = v.inputs[0].shape();
    v.result[0] = expand(kept(v.grads[0], x), x);
  }
  Rows rows(Args in, std::span<const bool>) const override {
    if (in[0].rank() == 0) return Rows::none;
    return axes.has(0) ? Rows::sum : Rows::map;
  }
};

struct Max : Reduce<Max> {
  using Reduce::Reduce;
  const char* name() const override { return "max"; }
  void infer(Args in, std::span<Spec> out) const override {
    check_not_empty(name(), axes, in[0].shape());
    Reduce::infer(in, out);
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      reduce_axes<T>(in[0], axes, out[0], detail::reduce<detail::MaxKernel<T>, T>);
    });
  }
  Keep keep() const override { return {.inputs = 1, .outputs = 1}; }
  void vjp(Vjp& v) const override {
    const Tensor& x = v.inputs[0];
    const Tensor is_max = equal(x, kept(v.outputs[0], x.shape()));
    const Tensor holders = apply(Sum(axes, true), {&is_max}, Where::current());
    v.result[0] = is_max * (kept(v.grads[0], x.shape()) / holders);
  }
  Rows rows(Args in, std::span<const bool>) const override {
    return in[0].rank() > 0 && !axes.has(0) ? Rows::map : Rows::none;
  }
};

struct LogSumExp : Reduce<LogSumExp> {
  using Reduce::Reduce;
  const char* name() const override { return "logsumexp"; }
  void infer(Args in, std::span<Spec> out) const override {
    check_not_empty(name(), axes, in[0].shape());
    Reduce::infer(in, out);
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      reduce_axes<T>(in[0], axes, out[0], detail::logsumexp<T>);
    });
  }
  Keep keep() const override { return {.inputs = 1, .outputs = 1}; }
  void vjp(Vjp& v) const override {
    const Tensor& x = v.inputs[0];
    v.result[0] = kept(v.grads[0], x.shape()) * exp(x - kept(v.outputs[0], x.shape()));
  }
  Rows rows(Args in, std::span<const bool>) const override {
    return in[0].rank() > 0 && !axes.has(0) ? Rows::map : Rows::none;
  }
};

struct ArgMax : OpRecord<ArgMax> {
  int axis;
  explicit ArgMax(int along) : axis(along) {}

  const char* name() const override { return "argmax"; }
  void infer(Args in, std::span<Spec> out) const override {
    if (in[0].size(axis) == 0)
      fail_shape(name(), fmt::format("nothing to choose from in x {}", to_string(in[0].shape())));
    out[0] = {in[0].shape().without(axis), DType::i64};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      detail::argmax(in[0].ptr<T>(), detail::ReduceShape::along(in[0].shape(), axis),
                     out[0].mutable_ptr<std::int64_t>());
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  bool differentiable() const override { return false; }
  Rows rows(Args, std::span<const bool>) const override {
    return axis != 0 ? Rows::map : Rows::none;
  }
};

struct SumTo : OpRecord<SumTo> {
  Shape shape;
  bool keeps_rows;  // the leading axis is x's, however long

  const char* name() const override { return "sum_to"; }
  AxisSet axes(const Shape& x) const {
    const int dropped = x.rank() - shape.rank();
    AxisSet set;
    bool fits = dropped >= 0;
    for (int i = 0; fits && i < x.rank(); ++i) {
      if (keeps_rows && i == 0) continue;
      const bool goes = i < dropped || (shape[i - dropped] == 1 && x[i] != 1);
      if (goes) set.add(i);
      fits = goes || shape[i - dropped] == x[i];
    }
    if (!fits)
      fail_shape("sum_to", fmt::format("x {} to {}", to_string(x), to_string(shape)),
                 "The target must broadcast to the shape of x");
    return set;
  }
  void infer(Args in, std::span<Spec> out) const override {
    axes(in[0].shape());
    out[0] = {keeps_rows ? shape.with(0, in[0].size(0)) : shape, in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(),
               [&](auto zero) { sum_into<decltype(zero)>(in[0], axes(in[0].shape()), out[0]); });
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override { v.result[0] = expand(v.grads[0], v.inputs[0].shape()); }
  Rows rows(Args in, std::span<const bool>) const override {
    if (in[0].rank() == 0) return Rows::none;
    return keeps_rows ? Rows::map : Rows::sum;
  }
};

}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Where where) {
  return apply(Sum(AxisSet("sum", x, axes, where), keep_dims), {&x}, where);
}

Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Where where) {
  const AxisSet set("mean", x, axes, where);
  const std::int64_t count = set.count(x.shape());
  if (count == 0)
    fail_shape_at("mean", fmt::format("nothing to take the mean of in x {}", to_string(x.shape())),
                  where);
  return affine(apply(Sum(set, keep_dims), {&x}, where), 1.0 / static_cast<double>(count), 0,
                where);
}

Tensor max(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Where where) {
  return apply(Max(AxisSet("max", x, axes, where), keep_dims), {&x}, where);
}

Tensor logsumexp(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Where where) {
  return apply(LogSumExp(AxisSet("logsumexp", x, axes, where), keep_dims), {&x}, where);
}

Tensor argmax(const Tensor& x, int axis, Where where) {
  return apply(ArgMax(checked_axis("argmax", x, axis, where)), {&x}, where);
}

Tensor sum_to(const Tensor& x, const Shape& shape, Where where) {
  if (x.shape() == shape) return x;
  SumTo op;
  op.shape = shape;
  op.keeps_rows = x.rank() > 0 && x.rank() == shape.rank() && x.size(0) == shape[0];
  return apply(op, {&x}, where);
}

namespace {

using In = std::span<const Tensor>;

// The shapes and axes that every reduction is tried with.
template <class F>
std::vector<OpSample> samples(F f) {
  return {normal_sample({{7}}, [f](In in) { return f(in[0], {}, false); }),
          normal_sample({{3, 19}}, [f](In in) { return f(in[0], {-1}, false); }),
          normal_sample({{5, 18}}, [f](In in) { return f(in[0], {0}, true); }),
          normal_sample({{2, 3, 4}},
                        [f](In in) {
                          return f(in[0], {0, 2}, false);
                        }),
          normal_sample({{2, 3, 2, 3}},
                        [f](In in) {
                          return f(in[0], {1, 3}, true);
                        }),
          normal_sample({{2, 3, 2, 3}}, [f](In in) {
            return f(in[0], {2, -3}, false);
          })};
}

const auto call_sum = [](const Tensor& x, const std::vector<int>& axes, bool keep) {
  return sum(x, axes, keep);
};
const auto call_mean = [](const Tensor& x, const std::vector<int>& axes, bool keep) {
  return mean(x, axes, keep);
};
const auto call_max = [](const Tensor& x, const std::vector<int>& axes, bool keep) {
  return max(x, axes, keep);
};
const auto call_logsumexp = [](const Tensor& x, const std::vector<int>& axes, bool keep) {
  return logsumexp(x, axes, keep);
};

const RegisterOp sum_row{{
    .name = "sum",
    .signature = "sum(x, axes = all, keep_dims = false)",
    .summary = "Sum over axes",
    .samples = samples(call_sum),
    .wrong = {[] {
                sum(Tensor::zeros({2, 3}), {2});
              },
              [] {
                sum(Tensor::zeros({2, 3}), {0, -2});
              }},
}};
const RegisterOp mean_row{{
    .name = "mean",
    .signature = "mean(x, axes = all, keep_dims = false)",
    .summary = "Mean over axes",
    .samples = samples(call_mean),
    .wrong = {[] {
                mean(Tensor::zeros({2, 3}), {-3});
              },
              [] {
                mean(Tensor::zeros({2, 0}));
              }},
}};
const RegisterOp max_row{{
    .name = "max",
    .signature = "max(x, axes = all, keep_dims = false)",
    .summary = "Largest element over axes; equal ones share the gradient",
    .samples = samples(call_max),
    .wrong = {[] {
                max(Tensor::zeros({2, 3}), {5});
              },
              [] { max(Tensor::zeros({0})); }},
}};
const RegisterOp logsumexp_row{{
    .name = "logsumexp",
    .signature = "logsumexp(x, axes = all, keep_dims = false)",
    .summary = "log(sum(exp(x))) over axes, without overflow",
    .samples = samples(call_logsumexp),
    .wrong = {[] {
                logsumexp(Tensor::zeros({2, 3}), {5});
              },
              [] { logsumexp(Tensor::zeros({0})); }},
}};
const RegisterOp argmax_row{{
    .name = "argmax",
    .signature = "argmax(x, axis = -1)",
    .summary = "Where along an axis the largest element stands",
    .samples = {normal_sample({{3, 19}}, [](In in) { return argmax(in[0]); }),
                normal_sample({{3, 4, 5}}, [](In in) { return argmax(in[0], 1); })},
    .wrong = {[] {
                argmax(Tensor::zeros({2, 3}), 2);
              },
              [] {
                argmax(Tensor::zeros({2, 0}));
              }},
    .differentiable = false,
}};
const RegisterOp sum_to_row{{
    .name = "sum_to",
    .signature = "sum_to(x, shape)",
    .summary = "Sum to a shape that broadcasts to that of x",
    .samples = {normal_sample({{3, 5}}, [](In in) { return sum_to(in[0], {5}); }),
                normal_sample({{3, 5}},
                              [](In in) {
                                return sum_to(in[0], {3, 1});
                              }),
                normal_sample({{2, 3, 2, 3}},
                              [](In in) {
                                return sum_to(in[0], {3, 1, 3});
                              }),
                normal_sample({{2, 3}}, [](In in) { return sum_to(in[0], {}); })},
    .wrong = {[] {
                sum_to(Tensor::zeros({2, 3}), {2});
              },
              [] {
                sum_to(Tensor::zeros({3}), {2, 3});
              }},
}};

}  // namespace
}  // namespace unroll
