#pragma once

#include <cstddef>
#include <cstdint>

// f32 products on a processor's matrix tiles (Intel AMX), which multiply bf16 and sum in f32. An
// f32 is the exact sum of three bf16, a = a1 + a2 + a3, each with eight of its 24 bits, and
//
//   a b = a1 b1 + (a1 b2 + a2 b1) + (a1 b3 + a2 b2 + a3 b1) + what is below a rounding of f32
//
// so that six products of tiles, at sixteen times the rate of f32's multiply-adds, are one of f32.
// (Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
// Higher-Precision Computations", 2019.)

namespace unroll::detail::amx {

/// Has this processor such tiles, and does the system let us use them? Without, the rest of this
/// file must not be called.
bool available();

/// A panel is 32 rows of A, or columns of B, in the parts and the order in which tiles take them:
/// [depth / 32][part][2 tiles][1 KB]. Of three parts of each number, or of one: the number rounded
/// to bf16.
constexpr std::int64_t panel_side = 32;
constexpr std::int64_t step_depth = 32;
constexpr std::size_t panel_bytes(std::int64_t depth, int parts) {
  return static_cast<std::size_t>((depth + step_depth - 1) / step_depth * parts) * 2048;
}

/// Rows of A or columns of B as they lie in memory: number k of row r is data[r row + k
/// depth_step].
struct Rows {
  const float* data = nullptr;
  std::int64_t row = 0, depth_step = 0;

  /// Depth runs along memory, and rows are `step` apart; or the other way round.
  static Rows along(const float* data, std::int64_t step) { return {data, step, 1}; }
  static Rows across(const float* data, std::int64_t step) { return {data, 1, step}; }
};

/// To panels, one behind the other, the last one filled up with zeros. They lie at a multiple
/// of 64.
void pack_left(const Rows& a, std::int64_t rows, std::int64_t depth, int parts, std::byte* panels);
void pack_right(const Rows& b, std::int64_t columns, std::int64_t depth, int parts,
                std::byte* panels);

/// Rows of `width` numbers, `step` apart, that will be wanted.
struct Soon {
  const float* first = nullptr;
  std::int64_t step = 0, rows = 0, width = 0;
};

/// Panels of A times panels of B, each one behind the other: rows x columns of C, whose rows lie
/// `c_step` apart. Sums do not depend on how many rows and columns there are, nor on cuts in depth
/// at multiples of step_depth.
struct Product {
  std::int64_t rows = 0, columns = 0, depth = 0;
  int parts = 3;
  const std::byte* a = nullptr;
  const std::byte* b = nullptr;
  const float* bias = nullptr;  ///< [columns] to start from, or null
  bool add = false;             ///< start from what C holds, whatever bias is
  float* c = nullptr;
  std::int64_t c_step = 0;
  Soon soon[2] = {};  ///< comes from memory meanwhile, where A has more than 16 rows
};
/// What is not finite gives NaN, also where f32 has an infinity, as do numbers from 3.39e38 on,
/// which round to an infinity in bf16; sums that overflow give an infinity or NaN. Parts below
/// f32's least normal number are 0: a number below 2^-110 (1e-33) has 16 bits, one below 2^-118
/// eight.
void multiply(const Product& p);

/// While it lives, the calling thread's tiles are set up for the above: one at a time, since its
/// end gives them back.
class Tiles {
 public:
  Tiles();
  ~Tiles();
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

}  // namespace unroll::detail::amx
