#pragma once

#include <unroll/graph/memory.h>

#include <cstdint>

/// A limit of memory while it lives.
struct Limit {
  explicit Limit(std::int64_t bytes) { unroll::set_memory_limit(bytes); }
  ~Limit() { unroll::set_memory_limit(0); }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;
};
