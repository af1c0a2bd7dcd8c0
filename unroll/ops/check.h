#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace unroll {

// What ops check before they call apply(), with errors that name the op and the caller.

[[noreturn]] void fail_shape_at(const char* op, std::string_view problem, const Where& where,
                                std::string_view hint = {});

/// `axis` of x counted from 0. Throws ShapeError for an axis that is not there.
int checked_axis(const char* op, const Tensor& x, int axis, const Where& where);

/// A position on an axis of `size`, counted from 0; negative ones count from the end.
std::int64_t counted_from_start(std::int64_t position, std::int64_t size);

/// Throws ShapeError naming the first of `indices` (i32 or i64) that is not in 0..bound-1 and where
/// it stands; `what` says what they count. `ignored` is let through.
void check_indices(const char* op, const Tensor& indices, std::int64_t bound, const char* what,
                   std::optional<std::int64_t> ignored = {});

/// Calls `f` with a value of an index dtype: f(int64_t{}) or f(int32_t{}). Throws Error otherwise.
template <class F>
decltype(auto) with_index(const char* op, DType dtype, F&& f) {
  if (dtype == DType::i64) return f(std::int64_t{});
  if (dtype == DType::i32) return f(std::int32_t{});
  fail(op, std::string("indices must be i64 or i32, got ") + to_string(dtype));
}

}  // namespace unroll
