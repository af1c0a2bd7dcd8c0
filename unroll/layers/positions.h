#pragma once

#include <unroll/layers/module.h>

#include <limits>

namespace unroll {

/// Sine and cosine of positions offset .. offset + T - 1, [T, D] (Vaswani et al., 2017, 3.5):
/// even columns sin(p / 10000^(2i/D)), odd ones the cosine.
Tensor sinusoidal_positions(std::int64_t steps, std::int64_t size, std::int64_t offset = 0,
                            DType dtype = DType::f32);

/// Rows of the same table for positions [B] i64 that data decides, such as those of streams: [B,
/// D]. Positions beyond `most` count as that.
Tensor sinusoidal_positions_at(const Tensor& positions, std::int64_t size, DType dtype,
                               std::int64_t most = std::numeric_limits<std::int64_t>::max(),
                               Where where = Where::current());

/// Rotates pairs of columns (i, i + D/2) of x [..., T, ..., D], whose axis `time_axis` is time, by
/// their position's angle (Su et al., "RoFormer", 2021). Throws ShapeError where D is odd.
Tensor rotary(const Tensor& x, std::int64_t offset = 0, int time_axis = -2,
              Where where = Where::current());

/// A learned vector for each position up to max_length; weight [max_length, D] as in an Embedding.
class LearnedPositions : public Module {
 public:
  Parameter weight;
  LearnedPositions(std::int64_t max_length, std::int64_t size, GeneratorRef generator = {});
  /// [T, D] for positions offset .. offset + T - 1. Throws ShapeError beyond max_length.
  Tensor operator()(std::int64_t steps, std::int64_t offset = 0,
                    Where where = Where::current()) const;
  std::string describe() const override;
};

}  // namespace unroll
