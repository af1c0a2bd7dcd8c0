#include <fmt/format.h>
#include <unroll/graph/bytes.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/check.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/strided.h>

#include <algorithm>
#include <cstring>

namespace unroll {
namespace {

// A part of zeros: what slice() takes out, put back.
struct Place : OpRecord<Place> {
  int axis;
  std::int64_t size, begin, step;
  Place(int along, std::int64_t full, std::int64_t first, std::int64_t every)
      : axis(along), size(full), begin(first), step(every) {}

  const char* name() const override { return "place"; }
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {in[0].shape().with(axis, size), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    std::memset(out[0].bytes(), 0, bytes_of(out[0]));
    copy_part(in[0].shape(), axis, out[0], begin, step, in[0], 0, 1);
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override {
    const std::int64_t count = v.inputs[0].size(axis);
    v.result[0] = slice(v.grads[0], axis, begin, begin + (count - 1) * step + 1, step);
  }
  Rows rows(Args, std::span<const bool>) const override {
    return axis != 0 ? Rows::map : Rows::none;
  }
};

struct Slice : OpRecord<Slice> {
  int axis;
  std::int64_t begin, end, step;
  Slice(int along, std::int64_t first, std::int64_t last, std::int64_t every)
      : axis(along), begin(first), end(last), step(every) {}

  const char* name() const override { return "slice"; }
  bool is_view() const { return axis == 0 && step == 1; }
  bool allocates() const override { return is_view(); }
  Shape result(const Shape& x) const {
    if (step < 1 || begin < 0 || end < begin || end > x[axis])
      fail_shape(name(),
                 fmt::format("{}:{}:{} of axis {} of x {}", begin, end, step, axis, to_string(x)));
    return x.with(axis, (end - begin + step - 1) / step);
  }
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {result(in[0].shape()), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (is_view()) {
      result(in[0].shape());  // does it fit?
      out[0] = in[0].rows(begin, end);
    } else {
      copy_part(out[0].shape(), axis, out[0], 0, 1, in[0], begin, step);
    }
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override {
    v.result[0] =
        apply(Place(axis, v.inputs[0].size(axis), begin, step), {&v.grads[0]}, Where::current());
  }
  Rows rows(Args, std::span<const bool>) const override {
    return axis != 0 ? Rows::map : Rows::none;
  }
};

bool all_stacked(std::span<const bool> stacked) {
  return std::find(stacked.begin(), stacked.end(), false) == stacked.end();
}

// Where gather() reads and its backward adds: calls f(place in x, place in index).
template <class I, class F>
void over_gathered(const Shape& x, const Tensor& index, int axis, const F& f) {
  const Strides strides = row_major(x);
  const Shape& shape = index.shape();
  const std::int64_t inner = shape[-1], rows = index.numel() / std::max<std::int64_t>(1, inner);
  const I* p = index.ptr<I>();
  const int last = shape.rank() - 1;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t base = 0, rest = row;
    for (int i = last - 1; i >= 0; --i) {
      if (i != axis) base += rest % shape[i] * strides[i];
      rest /= shape[i];
    }
    for (std::int64_t j = 0; j < inner; ++j) {
      const std::int64_t k = row * inner + j;
      f(base + p[k] * strides[axis] + (axis == last ? 0 : j), k);
    }
  }
}

void check_gather(const char* op, const Shape& x, const Tensor& index, int axis) {
  bool fits = index.rank() == x.rank() && x.rank() > 0;
  for (int i = 0; fits && i < x.rank(); ++i) fits = i == axis || index.size(i) <= x[i];
  if (!fits)
    fail_shape(
        op,
        fmt::format("index {} into axis {} of x {}", to_string(index.shape()), axis, to_string(x)),
        "It must have x's rank and, away from the axis, be no larger than x");
}

bool gather_by_rows(const Shape& x, const Shape& index, int axis) {
  return axis != 0 && x[0] == index[0];
}

// Adds each gradient where gather() had read.
struct ScatterAdd : OpRecord<ScatterAdd> {
  int axis;
  Shape shape;
  bool by_rows;  // the leading axis is that of the gradient
  ScatterAdd(int along, const Shape& into, bool rows) : axis(along), shape(into), by_rows(rows) {}

  const char* name() const override { return "scatter_add"; }
  // in: gradient, index
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {by_rows ? shape.with(0, in[0].size(0)) : shape, in[0].dtype()};
    check_gather(name(), out[0].shape, in[1], axis);
  }
  void forward(Args in, std::span<Tensor> out) const override {
    check_indices(name(), in[1], out[0].size(axis), "positions");
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      std::fill_n(out[0].mutable_ptr<T>(), out[0].numel(), T(0));
      with_index(name(), in[1].dtype(), [&](auto i) {
        T* to = out[0].mutable_ptr<T>();
        const T* from = in[0].ptr<T>();
        over_gathered<decltype(i)>(out[0].shape(), in[1], axis,
                                   [&](std::int64_t a, std::int64_t b) { to[a] += from[b]; });
      });
    });
  }
  Keep keep() const override { return {.inputs = 0b10}; }
  void vjp(Vjp& v) const override { v.result[0] = gather(v.grads[0], axis, v.inputs[1]); }
  Rows rows(Args, std::span<const bool> stacked) const override {
    return by_rows && all_stacked(stacked) ? Rows::map : Rows::none;
  }
};

struct Gather : OpRecord<Gather> {
  int axis;
  explicit Gather(int along) : axis(along) {}

  const char* name() const override { return "gather"; }
  void infer(Args in, std::span<Spec> out) const override {
    check_gather(name(), in[0].shape(), in[1], axis);
    out[0] = {in[1].shape(), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    check_indices(name(), in[1], in[0].size(axis), "positions");
    with_float(name(), in[0].dtype(), [&](auto zero) {
      with_index(name(), in[1].dtype(), [&](auto i) {
        using T = decltype(zero);
        T* to = out[0].mutable_ptr<T>();
        const T* from = in[0].ptr<T>();
        over_gathered<decltype(i)>(in[0].shape(), in[1], axis,
                                   [&](std::int64_t a, std::int64_t b) { to[b] = from[a]; });
      });
    });
  }
  Keep keep() const override { return {.inputs = 0b10}; }
  void vjp(Vjp& v) const override {
    const Shape& x = v.inputs[0].shape();
    const ScatterAdd op(axis, x, gather_by_rows(x, v.inputs[1].shape(), axis));
    if (v.needed[0]) v.result[0] = apply(op, {&v.grads[0], &v.inputs[1]}, Where::current());
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    return all_stacked(stacked) && gather_by_rows(in[0].shape(), in[1].shape(), axis) ? Rows::map
                                                                                      : Rows::none;
  }
};

struct OneHot : OpRecord<OneHot> {
  std::int64_t classes;
  DType dtype;
  OneHot(std::int64_t count, DType type) : classes(count), dtype(type) {}

  const char* name() const override { return "one_hot"; }
  void infer(Args in, std::span<Spec> out) const override {
    if (classes < 1) fail_shape(name(), fmt::format("{} classes", classes));
    out[0] = {in[0].shape().inserted(in[0].rank(), classes), dtype};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    check_indices(name(), in[0], classes, "classes");
    with_float(name(), dtype, [&](auto zero) {
      with_index(name(), in[0].dtype(), [&](auto i) {
        using T = decltype(zero);
        const auto* p = in[0].ptr<decltype(i)>();
        T* to = out[0].mutable_ptr<T>();
        std::fill_n(to, out[0].numel(), T(0));
        for (std::int64_t k = 0; k < in[0].numel(); ++k) to[k * classes + p[k]] = T(1);
      });
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  bool differentiable() const override { return false; }
  Rows rows(Args in, std::span<const bool>) const override {
    return in[0].rank() > 0 ? Rows::map : Rows::none;
  }
};

}  // namespace

Tensor slice(const Tensor& x, int axis, std::int64_t begin, std::int64_t end, std::int64_t step,
             Where where) {
  const int index = checked_axis("slice", x, axis, where);
  const std::int64_t size = x.size(index);
  const Slice op(index, counted_from_start(begin, size),
                 end == to_end ? size : counted_from_start(end, size), step);
  return apply(op, {&x}, where);
}

Tensor select(const Tensor& x, int axis, std::int64_t i, Where where) {
  const int index = checked_axis("select", x, axis, where);
  const std::int64_t at = counted_from_start(i, x.size(index));
  if (at < 0 || at >= x.size(index))
    fail_shape_at("select",
                  fmt::format("element {} of axis {} of x {}", i, axis, to_string(x.shape())),
                  where);
  const Tensor part = apply(Slice(index, at, at + 1, 1), {&x}, where);
  return reshape(part, x.shape().without(index), where);
}

Tensor gather(const Tensor& x, int axis, const Tensor& index, Where where) {
  return apply(Gather(checked_axis("gather", x, axis, where)), {&x, &index}, where);
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, double value, Where where) {
  return unroll::where(mask, Tensor::full({}, value, x.dtype()), x, where);
}

Tensor one_hot(const Tensor& indices, std::int64_t classes, DType dtype, Where where) {
  return apply(OneHot(classes, dtype), {&indices}, where);
}

namespace {

using In = std::span<const Tensor>;

Tensor some_indices(const Shape& shape, std::int64_t bound, DType dtype = DType::i64) {
  Generator g(3);
  Tensor result = Tensor::empty(shape, DType::i64);
  for (std::int64_t& i : result.mutable_data<std::int64_t>()) i = g.below(bound);
  return result.to(dtype);
}

const RegisterOp slice_row{{
    .name = "slice",
    .signature = "slice(x, axis, begin, end = to_end, step = 1)",
    .summary =
        "Part of an axis; a view along the leading one. select(x, axis, i) takes one element",
    .samples = {normal_sample({{7}}, [](In in) { return slice(in[0], 0, 2, 5); }),
                normal_sample({{4, 6}}, [](In in) { return slice(in[0], 1, 1, -1, 2); }),
                normal_sample({{7, 2}}, [](In in) { return slice(in[0], 0, 1, to_end, 3); }),
                normal_sample({{2, 3, 4}}, [](In in) { return slice(in[0], -2, -2); }),
                normal_sample({{2, 3, 2, 2}}, [](In in) { return select(in[0], 1, -1); }),
                normal_sample({{3, 2}}, [](In in) { return select(in[0], 0, 1); })},
    .wrong = {
        [] { slice(Tensor::zeros({4}), 1, 0, 1); }, [] { slice(Tensor::zeros({4}), 0, 0, 5); },
        [] { slice(Tensor::zeros({4}), 0, 3, 2); }, [] { slice(Tensor::zeros({4}), 0, 0, 4, 0); },
        [] { select(Tensor::zeros({4}), 0, 4); }},
}};

const RegisterOp gather_row{{
    .name = "gather",
    .signature = "gather(x, axis, index)",
    .summary = "Elements of x picked along an axis by an index tensor",
    .samples = {normal_sample({{5}}, [](In in) { return gather(in[0], 0, some_indices({8}, 5)); }),
                normal_sample({{3, 5}},
                              [](In in) {
                                return gather(in[0], 1, some_indices({3, 2}, 5));
                              }),
                normal_sample({{3, 5}},
                              [](In in) {
                                return gather(in[0], 0, some_indices({4, 5}, 3, DType::i32));
                              }),
                normal_sample({{2, 3, 4}},
                              [](In in) {
                                return gather(in[0], -2, some_indices({1, 5, 3}, 3));
                              })},
    .wrong = {[] {
                gather(Tensor::zeros({3}), 0, some_indices({2, 2}, 3));
              },
              [] {
                gather(Tensor::zeros({2, 3}), 1, some_indices({3, 3}, 3));
              },
              [] { gather(Tensor::zeros({3}), 0, Tensor::full({1}, 3, DType::i64)); },
              [] { gather(Tensor::zeros({3}), 0, Tensor::full({1}, -1, DType::i64)); }},
}};

const RegisterOp masked_fill_row{{
    .name = "masked_fill",
    .signature = "masked_fill(x, mask, value)",
    .summary = "x, but a value where the mask is not 0",
    .samples = {normal_sample({{3, 5}},
                              [](In in) {
                                const Tensor mask = some_indices({3, 5}, 2).to(in[0].dtype());
                                return masked_fill(in[0], mask, -2);
                              }),
                normal_sample({{2, 3, 4}},
                              [](In in) {
                                const Tensor mask = some_indices({3, 1}, 2).to(in[0].dtype());
                                return masked_fill(in[0], mask, 0.5);
                              })},
    .wrong = {[] {
      masked_fill(Tensor::zeros({2, 3}), Tensor::zeros({2}), 0);
    }},
}};

const RegisterOp one_hot_row{{
    .name = "one_hot",
    .signature = "one_hot(indices, classes, dtype = f32)",
    .summary = "Indices as vectors with a single 1",
    .samples = {{.inputs = [](Generator&) { return std::vector{some_indices({7}, 5)}; },
                 .call = [](In in) { return std::vector{one_hot(in[0], 5, DType::f64)}; }},
                {.inputs =
                     [](Generator&) {
                       return std::vector{some_indices({2, 3}, 4, DType::i32)};
                     },
                 .call = [](In in) { return std::vector{one_hot(in[0], 4)}; }}},
    .wrong = {[] { one_hot(Tensor::full({2}, 4, DType::i64), 4); },
              [] { one_hot(Tensor::full({2}, 0, DType::i64), 0); }},
    .differentiable = false,
}};

}  // namespace
}  // namespace unroll
