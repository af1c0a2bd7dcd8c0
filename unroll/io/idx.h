#pragma once

#include <unroll/graph/tensor.h>

#include <filesystem>

namespace unroll {

/// Reads an IDX file of unsigned bytes as a u8 tensor (MNIST's format, LeCun's: two zero bytes,
/// 0x08 for the type, the number of axes, their sizes as big-endian 32-bit numbers, the elements),
/// plain or compressed by gzip. Throws DataError for a file that is missing, another type, a broken
/// archive, and elements too few or too many.
Tensor read_idx(const std::filesystem::path& path);

}  // namespace unroll
