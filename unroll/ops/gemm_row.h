#pragma once

#include <unroll/ops/gemm.h>

namespace unroll::detail {

// One row times a matrix, C [1, n] = A [1, k] B, as streaming meets it at every step: each weight
// is used once, so that the product takes the time of reading them. B lies in panels, as many
// columns as registers hold sums of, row after row: read from beginning to end, and no vector's
// lanes are ever added up.

/// Is it one row, with a right operand that can be laid out so?
bool is_row(const Gemm& g);

/// Elements of the panels: columns are filled up to whole vectors.
template <class T>
std::int64_t row_panel_size(const Gemm& g);

template <class T>
void pack_row(const Gemm& g, const T* b, T* panels);

/// `backwards`: the last panel first. The result is the same.
template <class T>
void gemm_row(const Gemm& g, const T* a, const T* panels, const T* bias, T* c, bool backwards);

}  // namespace unroll::detail
