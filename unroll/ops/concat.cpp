#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/check.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/strided.h>

#include <algorithm>
#include <utility>

namespace unroll {
namespace {

struct Concat : OpRecord<Concat> {
  int axis;
  explicit Concat(int along) : axis(along) {}

  const char* name() const override { return "concat"; }
  void infer(Args in, std::span<Spec> out) const override {
    Shape shape = in[0].shape();
    if (axis >= shape.rank())
      fail_shape(name(), fmt::format("axis {} of {}", axis, to_string(shape)));
    for (std::size_t i = 1; i < in.size(); ++i) {
      if (in[i].dtype() != in[0].dtype())
        fail(name(), fmt::format("dtypes differ: tensor 0 {} and tensor {} {}", to_string(in[0]), i,
                                 to_string(in[i])));
      const Shape& next = in[i].shape();
      if (next.rank() != shape.rank() || next.with(axis, 0) != shape.with(axis, 0))
        fail_shape(name(),
                   fmt::format("tensor 0 {} and tensor {} {} along axis {}",
                               to_string(in[0].shape()), i, to_string(next), axis),
                   "All other axes must be equal");
      shape[axis] += next[axis];
    }
    out[0] = {shape, in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    std::int64_t at = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      copy_part(in[i].shape(), axis, out[0], at, 1, in[i], 0, 1);
      at += in[i].size(axis);
    }
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override {
    std::vector<std::int64_t> sizes(v.inputs.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] = v.inputs[i].size(axis);
    std::vector<Tensor> parts = split(v.grads[0], sizes, axis);
    for (std::size_t i = 0; i < parts.size(); ++i) v.result[i] = std::move(parts[i]);
  }
  Rows rows(Args, std::span<const bool> stacked) const override {
    return axis != 0 && std::find(stacked.begin(), stacked.end(), false) == stacked.end()
               ? Rows::map
               : Rows::none;
  }
};

struct Split : OpRecord<Split> {
  int axis;
  std::vector<std::int64_t> sizes;
  Split(int along, std::vector<std::int64_t> parts) : axis(along), sizes(std::move(parts)) {}

  const char* name() const override { return "split"; }
  int outputs() const override { return static_cast<int>(sizes.size()); }
  bool allocates() const override { return axis == 0; }  // views
  void infer(Args in, std::span<Spec> out) const override {
    std::int64_t total = 0;
    bool fine = !sizes.empty();
    for (std::int64_t size : sizes) {
      total += size;
      fine = fine && size >= 0;
    }
    if (!fine || total != in[0].size(axis))
      fail_shape(name(),
                 fmt::format("{} parts of {} elements in all of axis {} of x {}", sizes.size(),
                             total, axis, to_string(in[0].shape())),
                 "The parts must add up to the axis");
    for (std::size_t i = 0; i < sizes.size(); ++i)
      out[i] = {in[0].shape().with(axis, sizes[i]), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    if (axis == 0) {  // do they fit?
      std::vector<Spec> specs(out.size());
      infer(in, specs);
    }
    std::int64_t at = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (axis == 0) {
        out[i] = in[0].rows(at, at + sizes[i]);
      } else {
        copy_part(out[i].shape(), axis, out[i], 0, 1, in[0], at, 1);
      }
      at += sizes[i];
    }
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override {
    std::vector<Tensor> parts(sizes.size());
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i] = v.grad(i);
    v.result[0] = concat(parts, axis);
  }
  Rows rows(Args, std::span<const bool>) const override {
    return axis != 0 ? Rows::map : Rows::none;
  }
};

std::vector<const Tensor*> pointers(std::span<const Tensor> tensors) {
  std::vector<const Tensor*> result;
  result.reserve(tensors.size());
  for (const Tensor& tensor : tensors) result.push_back(&tensor);
  return result;
}

}  // namespace

Tensor concat(std::span<const Tensor> tensors, int axis, Where where) {
  if (tensors.empty()) fail_shape_at("concat", "no tensors given", where);
  const int index = checked_axis("concat", tensors[0], axis, where);
  if (tensors.size() == 1) return tensors[0];
  Tensor result;
  apply(Concat(index), Args(pointers(tensors)), std::span(&result, 1), where);
  return result;
}

Tensor stack(std::span<const Tensor> tensors, int axis, Where where) {
  if (tensors.empty()) fail_shape_at("stack", "no tensors given", where);
  const int index = axis < 0 ? axis + tensors[0].rank() + 1 : axis;
  std::vector<Tensor> parts;
  parts.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    if (tensor.shape() != tensors[0].shape())
      fail_shape_at(
          "stack",
          fmt::format("shapes {} and {}", to_string(tensors[0].shape()), to_string(tensor.shape())),
          where, "They must be equal");
    parts.push_back(unsqueeze(tensor, index, where));
  }
  return concat(parts, index, where);
}

std::vector<Tensor> split(const Tensor& x, const std::vector<std::int64_t>& sizes, int axis,
                          Where where) {
  const Split op(checked_axis("split", x, axis, where), sizes);
  std::vector<Tensor> parts(sizes.size());
  const Tensor* input = &x;
  apply(op, Args(std::span(&input, 1)), parts, where);
  return parts;
}

std::vector<Tensor> split(const Tensor& x, std::int64_t parts, int axis, Where where) {
  const int index = checked_axis("split", x, axis, where);
  if (parts < 1 || x.size(index) % parts != 0)
    fail_shape_at(
        "split",
        fmt::format("axis {} of x {} into {} equal parts", axis, to_string(x.shape()), parts),
        where);
  return split(x, std::vector<std::int64_t>(static_cast<std::size_t>(parts), x.size(index) / parts),
               index, where);
}

std::vector<Tensor> unbind(const Tensor& x, int axis, Where where) {
  const int index = checked_axis("unbind", x, axis, where);
  const Shape shape = x.shape().without(index);
  std::vector<Tensor> parts = split(x, x.size(index), index, where);
  for (Tensor& part : parts) part = reshape(part, shape, where);
  return parts;
}

namespace {

using In = std::span<const Tensor>;

const RegisterOp concat_row{{
    .name = "concat",
    .signature = "concat(tensors, axis = 0)",
    .summary = "Tensors side by side along an axis; stack puts them along a new one",
    .samples = {normal_sample({{2, 3}, {4, 3}}, [](In in) { return concat(in, 0); }),
                normal_sample({{2, 3}, {2, 1}, {2, 5}}, [](In in) { return concat(in, -1); }),
                normal_sample({{2, 3, 2}, {2, 1, 2}}, [](In in) { return concat(in, 1); }),
                normal_sample({{3}, {3}}, [](In in) { return stack(in, 1); }),
                normal_sample({{2, 3}, {2, 3}}, [](In in) { return stack(in); })},
    .wrong = {[] {
                concat({Tensor::zeros({2, 3}), Tensor::zeros({2, 4})}, 0);
              },
              [] {
                concat({Tensor::zeros({2}), Tensor::zeros({2, 4})}, 0);
              },
              [] {
                concat({Tensor::zeros({2}), Tensor::zeros({2})}, 1);
              },
              [] { concat(std::span<const Tensor>()); },
              [] {
                stack({Tensor::zeros({2}), Tensor::zeros({3})});
              }},
}};

const RegisterOp split_row{{
    .name = "split",
    .signature = "split(x, sizes or parts, axis = 0)",
    .summary = "The undoing of concat; unbind(x, axis) is the undoing of stack",
    .samples = {normal_sample_of({{5, 2}},
                                 [](In in) {
                                   return split(in[0], {2, 0, 3});
                                 }),
                normal_sample_of({{2, 6}}, [](In in) { return split(in[0], 3, 1); }),
                normal_sample_of({{2, 3, 2}}, [](In in) { return unbind(in[0], 1); }),
                normal_sample_of({{3, 17}}, [](In in) { return unbind(in[0]); })},
    .wrong = {[] {
                split(Tensor::zeros({5}), {2, 2});
              },
              [] { split(Tensor::zeros({5}), 2); },
              [] {
                split(Tensor::zeros({5}), {7, -2});
              },
              [] { unbind(Tensor::zeros({})); }},
}};

}  // namespace
}  // namespace unroll
