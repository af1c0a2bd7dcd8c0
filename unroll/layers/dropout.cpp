#include <fmt/format.h>
#include <unroll/layers/dropout.h>
#include <unroll/ops/dropout.h>

namespace unroll {

Dropout::Dropout(double p, GeneratorRef generator)
    : p_(p), generator_((static_cast<std::uint64_t>(generator->next()) << 32) | generator->next()) {
  if (!(p >= 0.0 && p < 1.0)) fail("Dropout", fmt::format("p = {} is not in [0, 1)", p));
  add("generator", generator_);
}

Tensor Dropout::operator()(const Tensor& x, Where where) {
  if (p_ == 0.0 || !training()) return x;
  return dropout(x, p_, generator_, true, where);
}

std::string Dropout::describe() const { return fmt::format("Dropout({})", p_); }

}  // namespace unroll
