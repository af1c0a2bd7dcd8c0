#pragma once

// The only place that knows oneDNN's two APIs: 2.x describes a primitive in two steps, 3.x in one.
#include <dnnl.hpp>

namespace unroll::onednn {

inline dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

inline dnnl::matmul::primitive_desc matmul(const dnnl::memory::desc& a, const dnnl::memory::desc& b,
                                           const dnnl::memory::desc* bias,
                                           const dnnl::memory::desc& c,
                                           const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  if (bias != nullptr) return {engine(), a, b, *bias, c, attributes};
  return {engine(), a, b, c, attributes};
#else
  if (bias != nullptr) return {dnnl::matmul::desc(a, b, *bias, c), attributes, engine()};
  return {dnnl::matmul::desc(a, b, c), attributes, engine()};
#endif
}

}  // namespace unroll::onednn
