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

/// Copies `shape` elements between whole tensors, at these positions along `axis`, with these
/// steps.
void copy_part(const Shape& shape, int axis, Tensor& to, std::int64_t to_begin,
               std::int64_t to_step, const Tensor& from, std::int64_t from_begin,
               std::int64_t from_step);

}  // namespace unroll
