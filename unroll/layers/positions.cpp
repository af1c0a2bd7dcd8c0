#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/layers/positions.h>
#include <unroll/ops/index.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/table.h>

#include <algorithm>
#include <cmath>

namespace unroll {
namespace {

// fill(position, column, angle's frequency) for every element of [T, D].
template <class F>
Tensor table(std::int64_t steps, std::int64_t size, DType dtype, F fill) {
  Tensor result = Tensor::empty({steps, size}, dtype);
  if (result.is_abstract()) return result;
  with_float("positions", dtype, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t t = 0; t < steps; ++t)
      for (std::int64_t i = 0; i < size; ++i)
        result.mutable_ptr<T>()[t * size + i] = static_cast<T>(fill(t, i));
  });
  return result;
}

double frequency(std::int64_t pair, std::int64_t size) {
  return std::pow(10000.0, -2.0 * static_cast<double>(pair) / static_cast<double>(size));
}

// in: positions [B] i64, the frequencies of pairs [D/2] f64.
struct PositionRows : OpRecord<PositionRows> {
  std::int64_t size, most;
  DType dtype;
  PositionRows(std::int64_t s, std::int64_t m, DType d) : size(s), most(m), dtype(d) {}

  const char* name() const override { return "sinusoidal_positions_at"; }
  void infer(Args in, std::span<Spec> out) const override {
    if (in[0].rank() != 1 || in[0].dtype() != DType::i64)
      fail_shape(name(), fmt::format("positions are {}, expected i64 [B]", to_string(in[0])));
    out[0] = {{in[0].size(0), size}, dtype};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    const auto* position = in[0].ptr<std::int64_t>();
    const auto* frequencies = in[1].ptr<double>();
    with_float(name(), dtype, [&](auto zero) {
      auto* row = out[0].mutable_ptr<decltype(zero)>();
      for (std::int64_t b = 0; b < in[0].numel(); ++b, row += size)
        for (std::int64_t i = 0; i < size; ++i) {
          const double angle =
              static_cast<double>(std::min(position[b], most)) * frequencies[i / 2];
          row[i] = static_cast<decltype(zero)>(i % 2 == 0 ? std::sin(angle) : std::cos(angle));
        }
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  bool differentiable() const override { return false; }
};

}  // namespace

Tensor sinusoidal_positions_at(const Tensor& positions, std::int64_t size, DType dtype,
                               std::int64_t most, Where where) {
  Tensor frequencies = Tensor::empty({(size + 1) / 2}, DType::f64);
  for (std::int64_t i = 0; i < frequencies.numel(); ++i)
    frequencies.mutable_ptr<double>()[i] = frequency(i, size);
  return apply(PositionRows(size, most, dtype), {&positions, &frequencies}, where);
}

namespace {

OpSample sample(std::vector<std::int64_t> positions, std::int64_t size, std::int64_t most) {
  return {
      .inputs =
          [=](Generator&) {  // the second one tells the dtype
            const auto count = static_cast<std::int64_t>(positions.size());
            return std::vector{Tensor::from(positions, {count}), Tensor::zeros({1}, DType::f64)};
          },
      .call = [=](std::span<const Tensor> in) -> std::vector<Tensor> {
        return {sinusoidal_positions_at(in[0], size, in[1].dtype(), most)};
      }};
}

const RegisterOp row{{
    .name = "sinusoidal_positions_at",
    .signature = "sinusoidal_positions_at(positions, size, dtype, most)",
    .summary = "Rows of the table of sines and cosines, for positions that data decides",
    .samples = {sample({0, 3, 1}, 6, 100), sample({7, 100'000}, 5, 100'000),
                sample({9, 12}, 4, 10)},
    .wrong = {[] { sinusoidal_positions_at(Tensor::zeros({2}), 4, DType::f32); },
              [] {
                sinusoidal_positions_at(Tensor::zeros({2, 1}, DType::i64), 4, DType::f32);
              }},
    .differentiable = false,
}};

}  // namespace

Tensor sinusoidal_positions(std::int64_t steps, std::int64_t size, std::int64_t offset,
                            DType dtype) {
  return table(steps, size, dtype, [&](std::int64_t t, std::int64_t i) {
    const double angle = static_cast<double>(t + offset) * frequency(i / 2, size);
    return i % 2 == 0 ? std::sin(angle) : std::cos(angle);
  });
}

Tensor rotary(const Tensor& x, std::int64_t offset, int time_axis, Where where) {
  if (x.rank() < 2 || x.shape()[-1] % 2 != 0)
    throw ShapeError(error_message(
        "rotary", fmt::format("needs [..., T, D] with even D, got {}", to_string(x)), &where, ""));
  const int axis = x.shape().axis_index(time_axis);
  const std::int64_t steps = x.size(axis), half = x.shape()[-1] / 2;
  const auto angle = [&](std::int64_t t, std::int64_t i) {
    return static_cast<double>(t + offset) * frequency(i, 2 * half);
  };
  // [T, 1, ..., D/2], which broadcasts to half of x.
  Shape shape{steps};
  for (int i = axis + 1; i < x.rank(); ++i)
    shape = shape.inserted(shape.rank(), i + 1 == x.rank() ? half : 1);
  const Tensor cosine = table(steps, half, x.dtype(), [&](std::int64_t t, std::int64_t i) {
    return std::cos(angle(t, i));
  });
  const Tensor sine = table(steps, half, x.dtype(),
                            [&](std::int64_t t, std::int64_t i) { return std::sin(angle(t, i)); });
  const auto [left, right] = chunk<2>(x, where);
  const auto [a, b] = pointwise(
      {"rotary", where},
      [](auto a, auto b, auto c, auto s) {
        return std::tuple{a * c - b * s, b * c + a * s};
      },
      left, right, cosine.viewed(shape), sine.viewed(shape));
  return concat({a, b}, -1, where);
}

LearnedPositions::LearnedPositions(std::int64_t max_length, std::int64_t size,
                                   GeneratorRef generator) {
  if (max_length < 1 || size < 1)
    fail("LearnedPositions", fmt::format("sizes must be positive, got {} x {}", max_length, size));
  weight = Parameter(generator->normal({max_length, size}, 0.0, 0.02));
  add("weight", weight);
}

Tensor LearnedPositions::operator()(std::int64_t steps, std::int64_t offset, Where where) const {
  if (offset + steps > weight.shape()[0])
    throw ShapeError(error_message(
        "LearnedPositions",
        fmt::format("positions up to {} of a table of {}", offset + steps, weight.shape()[0]),
        &where, "Build it with a larger max_length, or use rotary positions"));
  return slice(weight, 0, offset, offset + steps, 1, where);
}

std::string LearnedPositions::describe() const {
  return fmt::format("LearnedPositions({}, {})", weight.shape()[0], weight.shape()[1]);
}

}  // namespace unroll
