#pragma once

// Tiled attention's products on matrix tiles (amx.h): operands of a tile of keys, or of a block of
// queries, are laid out once for all products they take part in.

#include <unroll/ops/amx.h>
#include <unroll/ops/attention_block.h>

#include <optional>

namespace unroll::detail {

/// Is it attention in f32, on a processor that has such tiles, and so long that laying operands out
/// pays? Tiles on the diagonal are done whole.
template <class T>
bool is_on_amx(const AttentionRules& r) {
  return std::is_same_v<T, float> && r.size >= amx::step_depth && r.queries >= 64 &&
         blocks_together(r) > 1 && amx::available();
}

/// Panels of up to `rows` rows or columns: where they lie, and how deep they are. Made of nothing
/// but numbers of f32, whatever T is: for f64 there are none.
class Panels {
 public:
  static std::int64_t elements(std::int64_t rows, std::int64_t depth) {
    return static_cast<std::int64_t>(amx::panel_bytes(depth, 3) / sizeof(float)) * count(rows);
  }
  Panels() = default;
  template <class T>
  Panels(TileScratch<T>& scratch, std::int64_t rows, std::int64_t depth)
      : bytes_(reinterpret_cast<std::byte*>(scratch.take(elements(rows, depth)))) {}

  const std::byte* get() const { return bytes_; }

  /// Numbers whose rows lie `step` apart, as rows of the left operand.
  void pack_left_rows(std::int64_t rows, std::int64_t depth, const float* from,
                      std::int64_t step) const {
    amx::pack_left(amx::Rows::along(from, step), rows, depth, 3, bytes_);
  }
  /// Their columns, as rows of the left operand or as columns of the right.
  void pack_left_across(std::int64_t columns, std::int64_t depth, const float* from,
                        std::int64_t step) const {
    amx::pack_left(amx::Rows::across(from, step), columns, depth, 3, bytes_);
  }
  void pack_right_across(std::int64_t columns, std::int64_t depth, const float* from,
                         std::int64_t step) const {
    amx::pack_right(amx::Rows::across(from, step), columns, depth, 3, bytes_);
  }

 private:
  static std::int64_t count(std::int64_t rows) {
    return (rows + amx::panel_side - 1) / amx::panel_side;
  }
  std::byte* bytes_ = nullptr;
};

}  // namespace unroll::detail
