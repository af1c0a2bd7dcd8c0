#pragma once

#include <unroll/ops/gemm.h>

namespace unroll::detail {

/// Is a product so small that calling the backend costs more than it saves? Then it is done in
/// registers, with B laid out in panels. Told from the whole product, so that its bits do not
/// depend on how it is cut.
bool is_small(const Gemm& g);
/// Floats of the panels.
std::int64_t small_panel_size(const Gemm& g);
/// B [k, n], or [n, k] where transposed, to [n / 64][k][64], the last panel as wide as what is
/// left, filled up to whole vectors.
void pack_small(const Gemm& g, const float* b, float* panels);
void gemm_small(const Gemm& g, const float* a, const float* panels, const float* bias, float* c);

}  // namespace unroll::detail
