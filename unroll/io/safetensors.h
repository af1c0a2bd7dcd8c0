#pragma once

// Tensors by name in the safetensors format (github.com/huggingface/safetensors), as PyTorch,
// JAX and others read and write it: 8 bytes with the header's length, the header in JSON with
// name, dtype, shape and place of every tensor, then the elements, little-endian and row-major.
//
// F64, F32, BF16, I64, I32 and U8 are kept; F16 becomes f32 and BOOL u8 when read. At most
// Shape::max_rank axes.
//
// Reading trusts nothing: sizes are compared with the file's before memory is asked for, every
// byte must belong to exactly one tensor, and whatever is wrong is a DataError that says what and
// where.

#include <unroll/graph/tensor.h>

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace unroll {

/// Free text that a file carries along.
using Metadata = std::map<std::string, std::string>;

/// Throws DataError for a file that cannot be read or is malformed.
std::map<std::string, Tensor> load_safetensors(const std::filesystem::path& path,
                                               Metadata* metadata = nullptr);

/// Writes the file whole or not at all (see AtomicFile). The same tensors give the same bytes.
/// Throws Error for a tensor without data, a name that is not UTF-8 or is "__metadata__", and where
/// the system refuses.
void save_safetensors(const std::filesystem::path& path,
                      const std::map<std::string, Tensor>& tensors, const Metadata& metadata = {});

/// The same from and to memory. `name` stands for the file in error messages.
std::map<std::string, Tensor> parse_safetensors(std::span<const std::byte> bytes,
                                                Metadata* metadata = nullptr,
                                                const std::string& name = "memory");
std::vector<std::byte> serialize_safetensors(const std::map<std::string, Tensor>& tensors,
                                             const Metadata& metadata = {});

}  // namespace unroll
