#pragma once

// What is in a panel (amx.h), for the two files that write and read it. Like them it is compiled
// for a processor that has tiles, and includes nothing whose inline functions others share.

#include <unroll/ops/amx.h>

#if defined(UNROLL_AMX) && defined(__linux__)
#ifndef __clang__
// GCC 12 warns of what its own header leaves undefined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

namespace unroll::detail::amx {

// Of a tile: rows, and numbers of 32 bits in one. Such a number is the parts of two f32, 16 apart
// in depth: which pairs a tile multiplies is free as long as both operands agree.
constexpr std::int64_t side = 16;
constexpr std::int64_t tile_size = side * side, part_size = 2 * tile_size;
constexpr std::int64_t step_size(int parts) { return parts * part_size; }

}  // namespace unroll::detail::amx
