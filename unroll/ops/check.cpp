#include <fmt/format.h>
#include <unroll/ops/check.h>

namespace unroll {

void fail_shape_at(const char* op, std::string_view problem, const Where& where,
                   std::string_view hint) {
  throw ShapeError(error_message(op, problem, &where, hint));
}

int checked_axis(const char* op, const Tensor& x, int axis, const Where& where) {
  if (!x.defined()) fail(op, "the input is an undefined tensor", where);
  const int index = axis < 0 ? axis + x.rank() : axis;
  if (index < 0 || index >= x.rank())
    fail_shape_at(op, fmt::format("axis {} of x {}", axis, to_string(x.shape())), where,
                  x.rank() == 0 ? "" : fmt::format("Axes are {} to {}", -x.rank(), x.rank() - 1));
  return index;
}

std::int64_t counted_from_start(std::int64_t position, std::int64_t size) {
  return position < 0 ? position + size : position;
}

void check_indices(const char* op, const Tensor& indices, std::int64_t bound, const char* what,
                   std::optional<std::int64_t> ignored) {
  with_index(op, indices.dtype(), [&](auto zero) {
    using I = decltype(zero);
    const I* p = indices.ptr<I>();
    const std::int64_t n = indices.numel(), skip = ignored.value_or(0);
    const bool skips = ignored.has_value();
    // Looked over first without a branch per index: nearly always all are fine.
    bool fine = true;
    for (std::int64_t i = 0; i < n; ++i)
      fine &= bool((p[i] >= 0) & (p[i] < bound)) | bool(skips & (p[i] == skip));
    if (fine) return;
    for (std::int64_t i = 0; i < n; ++i) {
      if ((p[i] >= 0 && p[i] < bound) || (skips && p[i] == skip)) continue;
      fail_shape(op,
                 fmt::format("index {} at place {} of {} is outside the {} {}", p[i], i,
                             to_string(indices.shape()), bound, what),
                 bound > 0 ? fmt::format("Valid indices are 0 to {}", bound - 1) : "");
    }
  });
}

}  // namespace unroll
