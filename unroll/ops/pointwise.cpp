#include <fmt/format.h>
#include <unroll/ops/index.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/samples.h>

namespace unroll {

Columns::operator Tensor() const {
  if (width == 0) return tensor;
  return slice(tensor, -1, begin, begin + width);
}

namespace detail {

Columns column_chunk(const Tensor& x, int i, int n, const Where& where) {
  if (x.rank() < 1 || x.shape()[-1] % n != 0)
    fail("chunk",
         fmt::format("the last axis of {} cannot be cut into {} equal parts", to_string(x), n),
         where);
  const std::int64_t width = x.shape()[-1] / n;
  return {x, i * width, width};
}

namespace {

Shape slot_shape(Args in, const PointwiseSlot& slot) {
  const Shape& shape = in[slot.tensor].shape();
  return slot.width == 0 ? shape : shape.with(-1, slot.width);
}

}  // namespace

Shape pointwise_shape(const char* name, Args in, std::span<const PointwiseSlot> slots) {
  const DType dtype = in[0].dtype();
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].dtype() != dtype)
      fail(name,
           fmt::format("dtypes differ: input 0 {} and input {} {}", to_string(in[0]), i,
                       to_string(in[i])),
           "Convert one of them with cast()");
    if (!is_float(dtype)) fail(name, fmt::format("needs f32 or f64, got {}", to_string(in[0])));
  }
  Shape shape = slot_shape(in, slots[0]);
  for (const PointwiseSlot& slot : slots.subspan(1))
    shape = broadcast(name, shape, slot_shape(in, slot));
  return shape;
}

PointwiseLoop pointwise_loop(const Shape& shape, Args in, std::span<const PointwiseSlot> in_slots,
                             std::span<const Tensor> out,
                             std::span<const PointwiseSlot> out_slots) {
  const std::size_t n = in_slots.size() + out_slots.size();
  const int rank = shape.rank();
  // Element strides of every slot along every axis of the result; 0 where it is broadcast.
  std::array<std::array<std::int64_t, Shape::max_rank>, PointwiseLoop::max_slots> stride{};
  for (std::size_t s = 0; s < n; ++s) {
    const bool is_in = s < in_slots.size();
    const PointwiseSlot& slot = is_in ? in_slots[s] : out_slots[s - in_slots.size()];
    if (slot.tensor < 0) continue;
    const Shape& memory = is_in ? in[slot.tensor].shape() : out[slot.tensor].shape();
    std::int64_t step = 1;
    for (int axis = 1; axis <= memory.rank(); ++axis) {
      const std::int64_t logical =
          axis == 1 && slot.width != 0 && is_in ? slot.width : memory[-axis];
      if (logical != 1 || (!is_in && shape[-axis] == 1)) stride[s][rank - axis] = step;
      step *= memory[-axis];
    }
  }
  // Axes of size 1 are no loops. The last other one is the inner run; those before join it where
  // every slot is contiguous over both or broadcast over both.
  std::array<int, Shape::max_rank> axes{};
  int count = 0;
  for (int axis = 0; axis < rank; ++axis)
    if (shape[axis] != 1) axes[count++] = axis;
  PointwiseLoop loop;
  loop.inner = 1;
  if (count == 0) return loop;
  const int last = axes[count - 1];
  // Columns of width 1 lie apart along every axis that is left: each of them is a row.
  bool run = true;
  for (std::size_t s = 0; s < n; ++s) run = run && stride[s][last] <= 1;
  if (run) loop.inner = shape[axes[--count]];
  for (; run && count > 0; --count) {
    const int axis = axes[count - 1];
    bool joins = true;
    for (std::size_t s = 0; s < n && joins; ++s)
      joins = stride[s][axis] == stride[s][last] * loop.inner;
    if (!joins) break;
    loop.inner *= shape[axis];
  }
  for (std::size_t s = 0; s < n; ++s) loop.steps[s] = stride[s][last] != 0;
  // Outer axes that follow each other in memory for every slot become one.
  for (int k = 0; k < count; ++k) {
    const int axis = axes[k];
    bool joins = loop.outer_rank > 0;
    for (std::size_t s = 0; s < n && joins; ++s)
      joins = loop.stride[s][loop.outer_rank - 1] == stride[s][axis] * shape[axis];
    const int place = joins ? loop.outer_rank - 1 : loop.outer_rank++;
    loop.outer[place] = joins ? loop.outer[place] * shape[axis] : shape[axis];
    for (std::size_t s = 0; s < n; ++s) loop.stride[s][place] = stride[s][axis];
    loop.rows *= shape[axis];
  }
  return loop;
}

void resolve_columns(std::span<Columns> columns) {
  for (Columns& one : columns) {
    if (one.width == 0) continue;
    std::int64_t covered = 0;
    bool apart = true;
    for (const Columns& other : columns) {
      if (other.width == 0 || !in_same_tensor(one.tensor, other.tensor)) continue;
      covered += other.width;
      apart = apart && (&one == &other || other.begin + other.width <= one.begin ||
                        one.begin + one.width <= other.begin);
    }
    if (!apart || covered != one.tensor.shape()[-1]) one = {Tensor(one), 0, 0};
  }
}

Rows pointwise_rows(Args in, std::span<const PointwiseSlot> slots, std::span<const bool> stacked) {
  Shape shape = slot_shape(in, slots[0]);
  for (const PointwiseSlot& slot : slots.subspan(1))
    shape = broadcast("pointwise", shape, slot_shape(in, slot));
  if (shape.rank() == 0) return Rows::none;
  for (const PointwiseSlot& slot : slots) {
    const Shape one = slot_shape(in, slot);
    const bool full =
        one.rank() == shape.rank() && one[0] == shape[0] && !(slot.width != 0 && one.rank() == 1);
    const bool repeated = one.rank() < shape.rank() || one[0] == 1;
    if (stacked[slot.tensor] ? !full : !repeated) return Rows::none;
  }
  return Rows::map;
}

std::uint32_t pointwise_in_place(Args in, std::span<const PointwiseSlot> in_slots,
                                 std::span<const PointwiseSlot> out_slots, std::size_t output) {
  Shape shape = slot_shape(in, in_slots[0]);
  for (const PointwiseSlot& slot : in_slots.subspan(1))
    shape = broadcast("pointwise", shape, slot_shape(in, slot));
  const int k = static_cast<int>(output);
  bool written = false;
  for (const PointwiseSlot& slot : out_slots) written = written || slot.tensor == k;
  for (const PointwiseSlot& slot : in_slots)
    if (slot.tensor == k && slot_shape(in, slot) != shape) return 0;
  return written && k < 32 ? 1u << k : 0;
}

void fail_derivative_order(const char* name) {
  fail(name, "gradients of this order are not derived from a lambda with so many arguments",
       "Compose it from smaller ops");
}

}  // namespace detail
namespace {

// Columns in, several results out.
std::vector<Tensor> of_two_halves(std::span<const Tensor> in) {
  const auto [a, b] = chunk<2>(in[0]);
  const auto [p, q] = pointwise(
      [](auto a, auto b, auto c) {
        return std::tuple{a * tanh(b), sigmoid(b) * c};
      },
      a, b, in[1]);
  return {p, q};
}

const RegisterOp pointwise_row{{
    .name = "pointwise",
    .signature = "pointwise(lambda, x...)",
    .summary = "A generic lambda as an op: one pass over memory each way",
    .samples = {normal_sample({{3, 5}, {5}},
                              [](auto in) {
                                return pointwise(
                                    [](auto x, auto b) { return sin(x) * exp(b) + cos(x); }, in[0],
                                    in[1]);
                              }),
                normal_sample_of({{3, 4, 2}, {3, 1, 1}},  // columns of width 1
                                 of_two_halves),
                normal_sample_of({{3, 8}, {3, 4}}, of_two_halves)},
    .twice = false,
}};

}  // namespace
}  // namespace unroll
