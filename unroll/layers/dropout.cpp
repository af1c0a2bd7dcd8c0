#include <fmt/format.h>
#include <unroll/layers/dropout.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/dropout.h>

namespace unroll {

Generator detail::own_generator(GeneratorRef& generator) {
  const std::uint64_t high = generator->next();
  return Generator(high << 32 | generator->next());
}

namespace {

void check_probability(const char* name, double p) {
  if (!(p >= 0.0 && p < 1.0)) fail(name, fmt::format("p = {} is not in [0, 1)", p));
}

}  // namespace

Dropout::Dropout(double p, GeneratorRef generator)
    : p_(p), generator_(detail::own_generator(generator)) {
  check_probability("Dropout", p);
  add("generator", generator_);
}

Tensor Dropout::operator()(const Tensor& x, Where where) {
  if (p_ == 0.0 || !training()) return x;
  return dropout(x, p_, generator_, true, where);
}

std::string Dropout::describe() const { return fmt::format("Dropout({})", p_); }

VariationalDropout::VariationalDropout(double p, GeneratorRef generator)
    : p_(p), generator_(detail::own_generator(generator)) {
  check_probability("VariationalDropout", p);
  add("generator", generator_);
}

Tensor VariationalDropout::operator()(const Tensor& x, Where where) {
  if (x.rank() < 2)
    throw ShapeError(error_message("VariationalDropout",
                                   fmt::format("x is {}, expected [T, B, ...]", to_string(x)),
                                   &where, ""));
  if (p_ == 0.0 || !training()) return x;
  const Tensor ones = Tensor::full(x.shape().with(0, 1), 1, x.dtype());
  return mul(x, dropout(ones, p_, generator_, true, where), where);
}

std::string VariationalDropout::describe() const {
  return fmt::format("VariationalDropout({})", p_);
}

}  // namespace unroll
