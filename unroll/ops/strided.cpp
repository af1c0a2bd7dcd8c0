#include <unroll/graph/threads.h>
#include <unroll/ops/strided.h>

#include <algorithm>
#include <cstring>

namespace unroll {
namespace {

// The loops that remain when axes of size 1 are left out and neighbours joined.
struct Loops {
  int rank = 0;
  std::int64_t size[Shape::max_rank]{};
  std::int64_t to[Shape::max_rank]{};
  std::int64_t from[Shape::max_rank]{};

  Loops(const Shape& shape, const Strides& to_strides, const Strides& from_strides) {
    for (int axis = 0; axis < shape.rank(); ++axis) {
      if (shape[axis] == 1) continue;
      const bool joins = rank > 0 && to[rank - 1] == to_strides[axis] * shape[axis] &&
                         from[rank - 1] == from_strides[axis] * shape[axis];
      const int place = joins ? rank - 1 : rank++;
      size[place] = joins ? size[place] * shape[axis] : shape[axis];
      to[place] = to_strides[axis];
      from[place] = from_strides[axis];
    }
    if (rank == 0) {
      rank = 1;
      size[0] = to[0] = from[0] = 1;
    }
  }

  // Moves an axis to the end, so that it becomes an inner loop.
  void move_last(int axis) {
    for (auto* values : {size, to, from})
      std::rotate(values + axis, values + axis + 1, values + rank);
  }

  std::int64_t outer(int loops) const {
    std::int64_t product = 1;
    for (int i = 0; i < loops; ++i) product *= size[i];
    return product;
  }

  // The offsets of iteration n of the first `loops` loops.
  std::pair<std::int64_t, std::int64_t> offsets(std::int64_t n, int loops) const {
    std::int64_t a = 0, b = 0;
    for (int i = loops - 1; i >= 0; --i) {
      const std::int64_t k = n % size[i];
      n /= size[i];
      a += k * to[i];
      b += k * from[i];
    }
    return {a, b};
  }
};

template <class E>
void copy_run(E* to, const E* from, std::int64_t n, std::int64_t to_step, std::int64_t from_step) {
  if (to_step == 1 && from_step == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(E));
  } else if (to_step == 1 && from_step == 0) {
    std::fill_n(to, n, *from);
  } else if (to_step == 1 && from_step == -1) {
    std::reverse_copy(from - n + 1, from + 1, to);
  } else {
    for (std::int64_t i = 0; i < n; ++i) to[i * to_step] = from[i * from_step];
  }
}

// to[r][c] = from[c][r] in tiles that fit the nearest cache: both sides are used by whole lines.
template <class E>
void copy_transposed(E* to, const E* from, std::int64_t rows, std::int64_t columns,
                     std::int64_t to_step, std::int64_t from_step) {
  constexpr std::int64_t tile = 16;
  for (std::int64_t r = 0; r < rows; r += tile) {
    const std::int64_t height = std::min(tile, rows - r);
    for (std::int64_t c = 0; c < columns; c += tile) {
      const std::int64_t width = std::min(tile, columns - c);
      E* into = to + r * to_step + c;
      const E* source = from + c * from_step + r;
      if (height == tile && width == tile) {
        E block[tile][tile];
        for (int i = 0; i < tile; ++i)
          for (int j = 0; j < tile; ++j) block[j][i] = source[i * from_step + j];
        for (int j = 0; j < tile; ++j)
          for (int i = 0; i < tile; ++i) into[j * to_step + i] = block[j][i];
      } else {
        for (std::int64_t j = 0; j < height; ++j)
          for (std::int64_t i = 0; i < width; ++i)
            into[j * to_step + i] = source[i * from_step + j];
      }
    }
  }
}

constexpr std::int64_t piece_elements = 16384;

template <class E>
void copy(Loops loops, E* to, const E* from) {
  const int last = loops.rank - 1;
  // An axis that is contiguous in the source but not last in the result: a transpose.
  int contiguous = -1;
  if (loops.to[last] == 1 && loops.from[last] != 1 && loops.from[last] != 0)
    for (int axis = 0; axis < last; ++axis)
      if (loops.from[axis] == 1) contiguous = axis;
  if (contiguous >= 0) {
    loops.move_last(contiguous);
    std::swap(loops.size[last], loops.size[last - 1]);
    std::swap(loops.to[last], loops.to[last - 1]);
    std::swap(loops.from[last], loops.from[last - 1]);
    // Now loop last - 1 is contiguous in the source, loop last in the result.
    const std::int64_t rows = loops.size[last - 1], columns = loops.size[last];
    const std::int64_t outer = loops.outer(last - 1);
    constexpr std::int64_t strip = 64;
    const std::int64_t strips = (rows + strip - 1) / strip;
    const std::int64_t piece = std::max<std::int64_t>(1, piece_elements / (strip * columns));
    parallel_for(outer * strips, piece, 10.0 * static_cast<double>(outer * rows * columns),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t n = begin; n < end; ++n) {
                     const auto [a, b] = loops.offsets(n / strips, last - 1);
                     const std::int64_t r = n % strips * strip;
                     copy_transposed(to + a + r * loops.to[last - 1], from + b + r,
                                     std::min(strip, rows - r), columns, loops.to[last - 1],
                                     loops.from[last]);
                   }
                 });
    return;
  }
  const std::int64_t run = loops.size[last], outer = loops.outer(last);
  if (outer == 1) {
    parallel_for(run, piece_elements, 10.0 * static_cast<double>(run),
                 [&](std::int64_t begin, std::int64_t end) {
                   copy_run(to + begin * loops.to[last], from + begin * loops.from[last],
                            end - begin, loops.to[last], loops.from[last]);
                 });
    return;
  }
  const std::int64_t piece = std::max<std::int64_t>(1, piece_elements / run);
  parallel_for(outer, piece, 10.0 * static_cast<double>(outer * run),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t n = begin; n < end; ++n) {
                   const auto [a, b] = loops.offsets(n, last);
                   copy_run(to + a, from + b, run, loops.to[last], loops.from[last]);
                 }
               });
}

}  // namespace

Strides row_major(const Shape& shape) {
  Strides strides{};
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= shape[axis];
  }
  return strides;
}

void copy_strided(const Shape& shape, std::int64_t element_size, std::byte* to,
                  const StridedPlace& to_place, const std::byte* from,
                  const StridedPlace& from_place) {
  if (shape.numel() == 0) return;
  const Loops loops(shape, to_place.strides, from_place.strides);
  const auto with_element = [&](auto zero) {
    using E = decltype(zero);
    copy(loops, reinterpret_cast<E*>(to) + to_place.offset,
         reinterpret_cast<const E*>(from) + from_place.offset);
  };
  switch (element_size) {
    case 8:
      return with_element(std::uint64_t{});
    case 4:
      return with_element(std::uint32_t{});
    case 2:
      return with_element(std::uint16_t{});
    default:
      return with_element(std::uint8_t{});
  }
}

void copy_part(const Shape& shape, int axis, Tensor& to, std::int64_t to_begin,
               std::int64_t to_step, const Tensor& from, std::int64_t from_begin,
               std::int64_t from_step) {
  StridedPlace a{0, row_major(to.shape())}, b{0, row_major(from.shape())};
  a.offset = to_begin * a.strides[axis];
  b.offset = from_begin * b.strides[axis];
  a.strides[axis] *= to_step;
  b.strides[axis] *= from_step;
  copy_strided(shape, size_of(to.dtype()), to.bytes(), a, from.bytes(), b);
}

}  // namespace unroll
