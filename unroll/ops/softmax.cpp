#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/check.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/softmax.h>
#include <unroll/ops/softmax_kernels.h>
#include <unroll/ops/strided.h>

namespace unroll {
namespace {

// Rows may be put together as long as they are neither counted (causal) nor what is summed.
bool rows_apart(const Shape& shape, int axis, bool causal) {
  return shape.rank() > (causal ? 2 : 1) && axis != 0;
}

struct SoftmaxBackward : OpRecord<SoftmaxBackward> {
  int axis;
  bool causal;
  double scale;
  SoftmaxBackward(int along, bool hides, double factor)
      : axis(along), causal(hides), scale(factor) {}

  const char* name() const override { return "softmax_backward"; }
  // in: the result y and its gradient g
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[0].spec(); }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      const detail::SoftmaxShape shape(detail::ReduceShape::along(in[0].shape(), axis),
                                       in[0].shape(), causal);
      detail::softmax_backward(shape, static_cast<T>(scale), in[0].ptr<T>(), in[1].ptr<T>(),
                               out[0].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = 0b11}; }
  // s y (g - <g, y>) is linear in g, with the same matrix transposed; in y it is quadratic.
  void vjp(Vjp& v) const override {
    const Tensor &y = v.inputs[0], &g = v.inputs[1], &u = v.grads[0];
    if (v.needed[0]) {
      const Tensor gy = sum(g * y, {axis}, true), uy = sum(u * y, {axis}, true);
      v.result[0] = affine(u * (g - gy) - g * uy, scale, 0);
    }
    if (v.needed[1]) v.result[1] = apply(*this, {&y, &u}, Where::current());
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    return stacked[0] && stacked[1] && rows_apart(in[0].shape(), axis, causal) ? Rows::map
                                                                               : Rows::none;
  }
};

struct Softmax : OpRecord<Softmax> {
  int axis;
  bool causal;
  double scale;
  Softmax(int along, bool hides, double factor) : axis(along), causal(hides), scale(factor) {}

  const char* name() const override { return "softmax"; }
  // in: x and, perhaps, the mask
  void infer(Args in, std::span<Spec> out) const override {
    const Shape& x = in[0].shape();
    const bool masked = in.size() > 1;
    if (!is_float(in[0].dtype()))
      fail(name(), fmt::format("needs f32 or f64, got {}", to_string(in[0])));
    if ((causal || masked) && axis != x.rank() - 1)
      fail_shape(name(), fmt::format("axis {} of x {} with a mask", axis, to_string(x)),
                 "Masks work along the last axis; permute x");
    if (causal && x.rank() < 2)
      fail_shape(name(), fmt::format("x {} cannot be causal", to_string(x)),
                 "It needs two axes: queries and keys");
    if (masked) {
      const Shape& mask = in[1].shape();
      bool fits = mask.rank() <= x.rank();
      for (int i = 1; fits && i <= mask.rank(); ++i) fits = mask[-i] == 1 || mask[-i] == x[-i];
      if (!fits)
        fail_shape(name(), fmt::format("mask {} does not broadcast to x {}", to_string(mask),
                                       to_string(x)));
      if (!is_float(in[1].dtype()) && in[1].dtype() != DType::u8)
        fail(name(), fmt::format("mask {}", to_string(in[1])), "It must be f32, f64 or u8");
    }
    out[0] = in[0].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) { run<decltype(zero)>(in, out[0]); });
  }
  template <class T>
  void run(Args in, Tensor& out) const {
    const Shape& shape = in[0].shape();
    const detail::SoftmaxShape s(detail::ReduceShape::along(shape, axis), shape, causal);
    if (in.size() == 1) {
      detail::softmax(s, static_cast<T>(scale), in[0].ptr<T>(), static_cast<const T*>(nullptr),
                      out.mutable_ptr<T>(), [](std::int64_t) { return detail::MaskRow{}; });
      return;
    }
    const Tensor mask = in[1].to(dtype_of<T>());
    const Strides strides = row_major(mask.shape());
    const int missing = shape.rank() - mask.rank();
    const auto row_of = [&](std::int64_t row) {
      detail::MaskRow place;
      for (int i = shape.rank() - 2; i >= 0; --i) {
        if (i >= missing && mask.size(i - missing) != 1)
          place.offset += row % shape[i] * strides[i - missing];
        row /= shape[i];
      }
      place.steps = mask.rank() > 0 && mask.size(-1) != 1;
      return place;
    };
    detail::softmax(s, static_cast<T>(scale), in[0].ptr<T>(), mask.ptr<T>(), out.mutable_ptr<T>(),
                    row_of);
  }
  Keep keep() const override { return {.inputs = 0, .outputs = 1}; }
  void vjp(Vjp& v) const override {
    if (v.needed[0])
      v.result[0] = apply(SoftmaxBackward(axis, causal, scale), {&v.outputs[0], &v.grads[0]},
                          Where::current());
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    if (!stacked[0] || !rows_apart(in[0].shape(), axis, causal)) return Rows::none;
    if (in.size() > 1) {
      const Shape &x = in[0].shape(), &mask = in[1].shape();
      const bool full = mask.rank() == x.rank() && mask[0] == x[0];
      const bool repeated = mask.rank() < x.rank() || mask[0] == 1;
      if (stacked[1] ? !full : !repeated) return Rows::none;
    }
    return Rows::map;
  }
};

struct LogSoftmaxBackward : OpRecord<LogSoftmaxBackward> {
  int axis;
  explicit LogSoftmaxBackward(int along) : axis(along) {}

  const char* name() const override { return "log_softmax_backward"; }
  // in: the result y and its gradient g
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[0].spec(); }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      detail::log_softmax_backward(detail::ReduceShape::along(in[0].shape(), axis), in[0].ptr<T>(),
                                   in[1].ptr<T>(), out[0].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = 0b11}; }
  // g - e^y <g, 1>
  void vjp(Vjp& v) const override {
    const Tensor &y = v.inputs[0], &g = v.inputs[1], &u = v.grads[0];
    const Tensor weighted = u * exp(y);
    if (v.needed[0]) v.result[0] = -weighted * sum(g, {axis}, true);
    if (v.needed[1]) v.result[1] = u - sum(weighted, {axis}, true);
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    return stacked[0] && stacked[1] && rows_apart(in[0].shape(), axis, false) ? Rows::map
                                                                              : Rows::none;
  }
};

struct LogSoftmax : OpRecord<LogSoftmax> {
  int axis;
  explicit LogSoftmax(int along) : axis(along) {}

  const char* name() const override { return "log_softmax"; }
  void infer(Args in, std::span<Spec> out) const override {
    if (!is_float(in[0].dtype()))
      fail(name(), fmt::format("needs f32 or f64, got {}", to_string(in[0])));
    out[0] = in[0].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (out[0].numel() == 0) return;
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      detail::log_softmax(detail::ReduceShape::along(in[0].shape(), axis), in[0].ptr<T>(),
                          out[0].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = 0, .outputs = 1}; }
  void vjp(Vjp& v) const override {
    v.result[0] = apply(LogSoftmaxBackward(axis), {&v.outputs[0], &v.grads[0]}, Where::current());
  }
  Rows rows(Args in, std::span<const bool>) const override {
    return rows_apart(in[0].shape(), axis, false) ? Rows::map : Rows::none;
  }
};

}  // namespace

Tensor softmax(const Tensor& x, const SoftmaxOptions& options, Where where) {
  const int axis = checked_axis("softmax", x, options.axis, where);
  const Softmax op(axis, options.causal, options.scale);
  if (options.mask.defined()) return apply(op, {&x, &options.mask}, where);
  return apply(op, {&x}, where);
}

Tensor log_softmax(const Tensor& x, int axis, Where where) {
  return apply(LogSoftmax(checked_axis("log_softmax", x, axis, where)), {&x}, where);
}

namespace {

using In = std::span<const Tensor>;

Tensor random_mask(const Shape& shape, DType dtype) {
  Generator g(5);
  return greater(g.uniform(shape, 0, 1, DType::f64), 0.4).to(dtype);
}

const RegisterOp softmax_row{{
    .name = "softmax",
    .signature = "softmax(x, {.axis = -1, .causal, .mask, .scale = 1})",
    .summary = "e^x over its sum along an axis; hidden elements are 0",
    .samples =
        {normal_sample({{7}}, [](In in) { return softmax(in[0]); }),
         normal_sample({{3, 19}}, [](In in) { return softmax(in[0], {.scale = 0.3}); }),
         normal_sample({{5, 18}}, [](In in) { return softmax(in[0], 0); }),
         normal_sample({{2, 3, 4}}, [](In in) { return softmax(in[0], 1); }),
         normal_sample({{2, 4, 4}}, [](In in) { return softmax(in[0], {.causal = true}); }),
         normal_sample({{2, 2, 5}},
                       [](In in) { return softmax(in[0], {.causal = true, .scale = 2}); }),
         normal_sample({{4, 2}}, [](In in) { return softmax(in[0], {.causal = true}); }),
         normal_sample({{2, 2, 3, 5}},
                       [](In in) {
                         return softmax(in[0], {.mask = random_mask({2, 1, 1, 5}, DType::u8)});
                       }),
         normal_sample({{3, 17}},
                       [](In in) {
                         return softmax(in[0], {.mask = random_mask({3, 17}, DType::f32)});
                       }),
         normal_sample(
             {{2, 3, 3}},
             [](In in) {
               return softmax(in[0], {.causal = true, .mask = random_mask({3, 1}, DType::f64)});
             })},
    .wrong = {[] {
                softmax(Tensor::zeros({2, 3}), 2);
              },
              [] { softmax(Tensor::zeros({3}), {.causal = true}); },
              [] {
                softmax(Tensor::zeros({2, 3}), {.axis = 0, .causal = true});
              },
              [] {
                softmax(Tensor::zeros({2, 3}), {.mask = Tensor::zeros({2})});
              }},
}};

const RegisterOp log_softmax_row{{
    .name = "log_softmax",
    .signature = "log_softmax(x, axis = -1)",
    .summary = "x - logsumexp(x) along an axis",
    .samples = {normal_sample({{7}}, [](In in) { return log_softmax(in[0]); }),
                normal_sample({{3, 19}}, [](In in) { return log_softmax(in[0]); }),
                normal_sample({{5, 18}}, [](In in) { return log_softmax(in[0], 0); }),
                normal_sample({{2, 3, 4}}, [](In in) { return log_softmax(in[0], -2); })},
    .wrong = {[] {
                log_softmax(Tensor::zeros({2, 3}), 2);
              },
              [] { log_softmax(Tensor::zeros({})); }},
}};

}  // namespace
}  // namespace unroll
