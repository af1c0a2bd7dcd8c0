#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/check.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/strided.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <utility>

namespace unroll {
namespace {

template <class I>
std::string listed(const std::array<I, Shape::max_rank>& values, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += (i == 0 ? "" : ", ") + std::to_string(values[i]);
  return text;
}

struct Reshape : OpRecord<Reshape> {
  // -1 stands for what is left. It is the first size wherever possible: then the record holds for
  // any number of rows.
  std::array<std::int64_t, Shape::max_rank> sizes{};
  int rank = 0;

  const char* name() const override { return "reshape"; }
  bool allocates() const override { return true; }

  Shape result(const Shape& x) const {
    std::array<std::int64_t, Shape::max_rank> full = sizes;
    std::int64_t product = 1;
    int open = -1;
    for (int i = 0; i < rank; ++i) {
      if (sizes[i] < -1 || (sizes[i] == -1 && open >= 0)) fail_sizes(x, "sizes are not valid");
      if (sizes[i] == -1) {
        open = i;
      } else {
        product *= sizes[i];
      }
    }
    if (open >= 0) {
      if (product == 0 || x.numel() % product != 0)
        fail_sizes(x, fmt::format("{} elements do not fill it", x.numel()));
      full[open] = x.numel() / product;
    } else if (product != x.numel()) {
      fail_sizes(x, fmt::format("{} elements are not {}", x.numel(), product));
    }
    return Shape(std::span<const std::int64_t>(full.data(), static_cast<std::size_t>(rank)));
  }
  [[noreturn]] void fail_sizes(const Shape& x, const std::string& problem) const {
    fail_shape("reshape",
               fmt::format("x {} as [{}]: {}", to_string(x), listed(sizes, rank), problem),
               "One size may be -1: whatever is left");
  }

  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {result(in[0].shape()), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    out[0] = in[0].viewed(result(in[0].shape()));
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override { v.result[0] = reshape(v.grads[0], v.inputs[0].shape()); }
  Rows rows(Args, std::span<const bool>) const override {
    return rank > 0 && sizes[0] == -1 ? Rows::map : Rows::none;
  }
};

struct Permute : OpRecord<Permute> {
  std::array<int, Shape::max_rank> axes{};
  int rank = 0;

  const char* name() const override { return "permute"; }
  void infer(Args in, std::span<Spec> out) const override {
    const Shape& x = in[0].shape();
    unsigned seen = 0;
    for (int i = 0; i < rank; ++i) seen |= 1u << axes[i];
    if (rank != x.rank() || seen + 1 != 1u << rank)
      fail_shape(name(), fmt::format("axes [{}] of x {}", listed(axes, rank), to_string(x)),
                 "Name every axis once");
    Shape shape = x;
    for (int i = 0; i < rank; ++i) shape[i] = x[axes[i]];
    out[0] = {shape, in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    const Strides strides = row_major(in[0].shape());
    StridedPlace from;
    for (int i = 0; i < rank; ++i) from.strides[i] = strides[axes[i]];
    copy_strided(out[0].shape(), size_of(in[0].dtype()), out[0].bytes(),
                 {0, row_major(out[0].shape())}, in[0].bytes(), from);
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override {
    Permute inverse = *this;
    for (int i = 0; i < rank; ++i) inverse.axes[axes[i]] = i;
    v.result[0] = apply(inverse, {&v.grads[0]}, Where::current());
  }
  Rows rows(Args, std::span<const bool>) const override {
    return rank > 0 && axes[0] == 0 ? Rows::map : Rows::none;
  }
};

struct Flip : OpRecord<Flip> {
  int axis;
  explicit Flip(int along) : axis(along) {}

  const char* name() const override { return "flip"; }
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[0].spec(); }
  void forward(Args in, std::span<Tensor> out) const override {
    const Strides strides = row_major(in[0].shape());
    StridedPlace from{(in[0].size(axis) - 1) * strides[axis], strides};
    from.strides[axis] = -strides[axis];
    copy_strided(out[0].shape(), size_of(in[0].dtype()), out[0].bytes(), {0, strides},
                 in[0].bytes(), from);
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override { v.result[0] = apply(*this, {&v.grads[0]}, Where::current()); }
  Rows rows(Args, std::span<const bool>) const override {
    return axis != 0 ? Rows::map : Rows::none;
  }
};

struct Expand : OpRecord<Expand> {
  Shape shape;
  bool keeps_rows;  // the leading axis is x's, however long

  const char* name() const override { return "expand"; }
  Shape result(const Shape& x) const {
    Shape full = shape;
    if (keeps_rows && x.rank() == shape.rank()) full[0] = x[0];
    bool fits = x.rank() <= full.rank();
    for (int i = 1; fits && i <= x.rank(); ++i) fits = x[-i] == 1 || x[-i] == full[-i];
    if (!fits)
      fail_shape("expand", fmt::format("x {} to {}", to_string(x), to_string(full)),
                 "Axes are aligned from the last; only those of size 1 are repeated");
    return full;
  }
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {result(in[0].shape()), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    const Shape& x = in[0].shape();
    const Strides strides = row_major(x);
    StridedPlace from;
    const int added = out[0].rank() - x.rank();
    for (int i = 0; i < x.rank(); ++i) from.strides[added + i] = x[i] == 1 ? 0 : strides[i];
    copy_strided(out[0].shape(), size_of(in[0].dtype()), out[0].bytes(),
                 {0, row_major(out[0].shape())}, in[0].bytes(), from);
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override { v.result[0] = sum_to(v.grads[0], v.inputs[0].shape()); }
  Rows rows(Args, std::span<const bool>) const override {
    return keeps_rows ? Rows::map : Rows::none;
  }
};

}  // namespace

Tensor reshape(const Tensor& x, std::span<const std::int64_t> sizes, Where where) {
  if (sizes.size() > Shape::max_rank)
    fail_shape_at("reshape",
                  fmt::format("{} axes; at most {} are supported", sizes.size(), Shape::max_rank),
                  where);
  Reshape op;
  op.rank = static_cast<int>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), op.sizes.begin());
  std::int64_t rest = 1;
  bool open = false;
  for (int i = 1; i < op.rank; ++i) {
    rest *= op.sizes[i];
    open = open || op.sizes[i] < 0;
  }
  if (op.rank > 0 && !open && rest > 0 && op.sizes[0] * rest == x.numel() && x.rank() > 0)
    op.sizes[0] = -1;
  return apply(op, {&x}, where);
}

Tensor flatten(const Tensor& x, int from, int to, Where where) {
  const int first = checked_axis("flatten", x, from, where);
  const int last = checked_axis("flatten", x, to, where);
  if (first > last)
    fail_shape_at("flatten", fmt::format("axes {} to {} of x {}", from, to, to_string(x.shape())),
                  where);
  std::vector<std::int64_t> sizes(x.shape().begin(), x.shape().begin() + first + 1);
  for (int axis = first + 1; axis <= last; ++axis) sizes.back() *= x.size(axis);
  sizes.insert(sizes.end(), x.shape().begin() + last + 1, x.shape().end());
  return reshape(x, sizes, where);
}

Tensor unsqueeze(const Tensor& x, int axis, Where where) {
  const int before = axis < 0 ? axis + x.rank() + 1 : axis;
  if (before < 0 || before > x.rank() || x.rank() == Shape::max_rank)
    fail_shape_at("unsqueeze", fmt::format("axis {} into x {}", axis, to_string(x.shape())), where);
  return reshape(x, x.shape().inserted(before, 1), where);
}

Tensor squeeze(const Tensor& x, int axis, Where where) {
  const int index = checked_axis("squeeze", x, axis, where);
  if (x.size(index) != 1)
    fail_shape_at("squeeze",
                  fmt::format("axis {} of x {} is not of size 1", axis, to_string(x.shape())),
                  where);
  return reshape(x, x.shape().without(index), where);
}

Tensor permute(const Tensor& x, const std::vector<int>& axes, Where where) {
  Permute op;
  op.rank = static_cast<int>(std::min<std::size_t>(axes.size(), Shape::max_rank));
  for (int i = 0; i < op.rank; ++i) op.axes[i] = checked_axis("permute", x, axes[i], where);
  const auto end = op.axes.begin() + op.rank;
  const bool in_order = std::adjacent_find(op.axes.begin(), end, std::greater_equal<>()) == end;
  if (in_order && op.rank == x.rank()) return x;
  return apply(op, {&x}, where);
}

Tensor transpose(const Tensor& x, int axis_a, int axis_b, Where where) {
  const int a = checked_axis("transpose", x, axis_a, where);
  const int b = checked_axis("transpose", x, axis_b, where);
  std::vector<int> axes(static_cast<std::size_t>(x.rank()));
  for (int i = 0; i < x.rank(); ++i) axes[i] = i;
  std::swap(axes[a], axes[b]);
  return permute(x, axes, where);
}

Tensor flip(const Tensor& x, int axis, Where where) {
  return apply(Flip(checked_axis("flip", x, axis, where)), {&x}, where);
}

Tensor expand(const Tensor& x, const Shape& shape, Where where) {
  if (x.defined() && x.shape() == shape) return x;
  Expand op;
  op.shape = shape;
  op.keeps_rows = x.rank() > 0 && x.rank() == shape.rank() && x.size(0) == shape[0];
  return apply(op, {&x}, where);
}

namespace {

using In = std::span<const Tensor>;

const RegisterOp reshape_row{{
    .name = "reshape",
    .signature = "reshape(x, shape)",
    .summary = "The same elements in another shape, one size of which may be -1; no copy",
    .samples = {normal_sample({{2, 6}},
                              [](In in) {
                                return reshape(in[0], {3, -1});
                              }),
                normal_sample({{2, 3, 4}}, [](In in) { return reshape(in[0], {-1}); }),
                normal_sample({{}},
                              [](In in) {
                                return reshape(in[0], {1, 1});
                              }),
                normal_sample({{2, 3, 2}}, [](In in) { return flatten(in[0], 1); }),
                normal_sample({{3, 1}}, [](In in) { return squeeze(in[0], 1); }),
                normal_sample({{3, 2}}, [](In in) { return unsqueeze(in[0], -1); })},
    .wrong = {[] {
                reshape(Tensor::zeros({2, 3}), {4});
              },
              [] {
                reshape(Tensor::zeros({2, 3}), {-1, 4});
              },
              [] {
                reshape(Tensor::zeros({2, 3}), {-1, -1});
              },
              [] {
                squeeze(Tensor::zeros({2, 3}), 0);
              },
              [] {
                unsqueeze(Tensor::zeros({2, 3}), 4);
              },
              [] {
                flatten(Tensor::zeros({2, 3}), 1, 0);
              }},
}};

const RegisterOp permute_row{{
    .name = "permute",
    .signature = "permute(x, axes)",
    .summary = "The axes in another order; transpose(x, a, b) swaps two",
    .samples = {normal_sample({{5, 7}},
                              [](In in) {
                                return permute(in[0], {1, 0});
                              }),
                normal_sample({{2, 3, 4}},
                              [](In in) {
                                return permute(in[0], {1, 0, 2});
                              }),
                normal_sample({{2, 3, 4}},
                              [](In in) {
                                return permute(in[0], {2, 0, 1});
                              }),
                normal_sample({{2, 3, 2, 3}},
                              [](In in) {
                                return permute(in[0], {0, 3, 2, 1});
                              }),
                normal_sample({{17, 19}}, [](In in) { return transpose(in[0]); })},
    .wrong = {[] {
                permute(Tensor::zeros({2, 3}), {0, 0});
              },
              [] {
                permute(Tensor::zeros({2, 3}), {0});
              },
              [] {
                permute(Tensor::zeros({2, 3}), {0, 2});
              },
              [] { transpose(Tensor::zeros({3})); }},
}};

const RegisterOp flip_row{{
    .name = "flip",
    .signature = "flip(x, axis)",
    .summary = "The order along an axis turned round",
    .samples = {normal_sample({{5}}, [](In in) { return flip(in[0], 0); }),
                normal_sample({{2, 3, 4}}, [](In in) { return flip(in[0], 1); }),
                normal_sample({{3, 17}}, [](In in) { return flip(in[0], -1); })},
    .wrong = {[] {
      flip(Tensor::zeros({2, 3}), 2);
    }},
}};

const RegisterOp expand_row{{
    .name = "expand",
    .signature = "expand(x, shape)",
    .summary = "Axes of size 1 and new leading ones repeated up to a shape",
    .samples = {normal_sample({{}},
                              [](In in) {
                                return expand(in[0], {3, 2});
                              }),
                normal_sample({{3, 1}},
                              [](In in) {
                                return expand(in[0], {3, 5});
                              }),
                normal_sample({{1, 3, 1, 2}},
                              [](In in) {
                                return expand(in[0], {2, 3, 3, 2});
                              }),
                normal_sample({{17}},
                              [](In in) {
                                return expand(in[0], {2, 2, 17});
                              })},
    .wrong = {[] {
                expand(Tensor::zeros({2, 3}), {2, 4});
              },
              [] {
                expand(Tensor::zeros({2, 3}), {3});
              }},
}};

}  // namespace
}  // namespace unroll
