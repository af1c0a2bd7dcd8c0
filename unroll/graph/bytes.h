#pragma once

#include <unroll/graph/tensor.h>

#include <cstddef>

namespace unroll {

/// How much memory the elements take.
inline std::size_t bytes_of(const Spec& spec) {
  return static_cast<std::size_t>(spec.shape.numel() * size_of(spec.dtype));
}
inline std::size_t bytes_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel() * size_of(tensor.dtype()));
}

}  // namespace unroll
