#pragma once

#include <unroll/ops/gemm.h>

namespace unroll::detail {

/// Is it a product of f32, exact or in bf16, that a processor with matrix tiles (amx.h) does on
/// them? Told from the whole product, so that its bits depend neither on how it is cut nor on
/// whether B is packed.
bool is_amx(const Gemm& g);

/// From begin to end, of the rows or columns of a result.
struct Span {
  std::int64_t begin = 0, end = 0;
};

/// Those of C's rows and columns, which begin at a multiple of 32, on the calling thread alone.
/// `work`, at a multiple of 64, has amx_workspace() bytes.
void gemm_amx(const Gemm& g, Span rows, Span columns, const float* a, const float* b,
              const float* bias, float* c, std::byte* work, const GemmFunctions& functions = {});
std::size_t amx_workspace(const Gemm& g, const GemmFunctions& functions = {});
/// Is each number of A laid out once? Else a function of it is computed again and again.
bool reads_once(const Gemm& g);

/// B in panels: to be used as often as one likes.
std::size_t amx_packed_bytes(const Gemm& g);
void pack_amx(const Gemm& g, const float* b, std::byte* packed);
/// Those of C's columns, which begin at a multiple of 64; `work` likewise.
void gemm_amx_packed(const Gemm& g, Span columns, const float* a, const std::byte* packed,
                     const float* bias, float* c, std::byte* work);
std::size_t amx_packed_workspace(const Gemm& g);

}  // namespace unroll::detail
