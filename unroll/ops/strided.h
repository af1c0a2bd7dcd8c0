#pragma once

#include <unroll/graph/tensor.h>

#include <array>
#include <cstdint>

namespace unroll {

/// Element steps along each axis; 0 repeats an element, a negative one runs backwards.
using Strides = std::array<std::int64_t, Shape::max_rank>;

/// Those of a row-major array.
Strides row_major(const Shape& shape);

/// Where an array of a `shape` begins in a buffer, in elements, and how it steps.
struct StridedPlace {
  std::int64_t offset = 0;
  Strides strides{};
};

/// Copies an array of `shape` from one buffer to another, each walked with its own steps. This is
/// the whole of permute, expand, flip, slice, concat: runs that are contiguous on both sides go
/// as blocks, and two axes that change places go in square tiles.
void copy_strided(const Shape& shape, std::int64_t element_size, std::byte* to,
                  const StridedPlace& to_place, const std::byte* from,
                  const StridedPlace& from_place);

}  // namespace unroll
