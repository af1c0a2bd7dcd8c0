#pragma once

#include <unroll/graph/arena.h>
#include <unroll/graph/op.h>

namespace unroll {

/// A call made ready to be repeated on operands of the same shapes: what can be decided once has
/// been (loops, backends, packed weights). It lives in an arena, beside the op that bound it.
class Kernel {
 public:
  /// Operands in the order of the op's inputs and outputs, at 4-byte aligned places.
  virtual void run(const std::byte* const* in, std::byte* const* out) const = 0;
  /// The data of fixed inputs, or their place, has changed since they were bound.
  virtual void refresh(const std::byte* const* in) const { (void)in; }
  /// Fixed inputs stay for good: what pays in the long run alone is laid out as well.
  virtual void settle(const std::byte* const* in) const { refresh(in); }

 protected:
  ~Kernel() = default;
};

/// The kernel that calls op.forward() with tensors of these specs. Op::bind()'s default.
const Kernel* bind_forward(const Op& op, Args in, Arena& arena);

}  // namespace unroll
