#pragma once

#include <cstddef>
#include <span>

namespace unroll {

/// A piece of memory in use from one moment to another, both included.
struct PlannedBlock {
  std::size_t bytes = 0;
  std::size_t first = 0, last = 0;
  std::size_t offset = 0;  ///< written by plan_offsets()
};

/// Gives each block an offset (a multiple of 64) so that blocks in use at one moment do not
/// overlap; returns the bytes of all. The largest are placed first, each as low as it fits
/// (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020).
std::size_t plan_offsets(std::span<PlannedBlock> blocks);

}  // namespace unroll
