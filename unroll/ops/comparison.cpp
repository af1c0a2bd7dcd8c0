// Masks, and the choice by a mask.
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/table.h>

namespace unroll {
namespace {

// 1 where the comparison holds. It has no gradient: the result depends on no derivative.
template <class Compare>
struct MaskFn {
  Compare holds;
  static constexpr Keep keep{.inputs = 0};
  static void vjp(const MaskFn&, Vjp&) {}
  template <class X>
  X operator()(X x, X y) const {
    return simd::where(holds(x, y), X(1), X(0));
  }
};

template <class Compare>
Tensor compare(const char* name, const Where& where, Compare holds, const Tensor& a,
               const Tensor& b) {
  // Nothing to differentiate, so nothing to record; but a trace must know where its masks come
  // from.
  const Tape* tape = Tape::current();
  const bool traced = tape != nullptr && tape->traces();
  return pointwise(PointwiseName(name, where), MaskFn<Compare>{holds}, traced ? a : a.detach(),
                   traced ? b : b.detach());
}

Tensor number(const Tensor& like, double value) { return Tensor::full({}, value, like.dtype()); }

}  // namespace

Tensor greater(const Tensor& a, const Tensor& b, Where where) {
  return compare(
      "greater", where, [](auto x, auto y) { return x > y; }, a, b);
}
Tensor greater(const Tensor& a, double b, Where where) { return greater(a, number(a, b), where); }
Tensor less(const Tensor& a, const Tensor& b, Where where) {
  return compare(
      "less", where, [](auto x, auto y) { return x < y; }, a, b);
}
Tensor less(const Tensor& a, double b, Where where) { return less(a, number(a, b), where); }
Tensor equal(const Tensor& a, const Tensor& b, Where where) {
  return compare(
      "equal", where, [](auto x, auto y) { return x == y; }, a, b);
}
Tensor equal(const Tensor& a, double b, Where where) { return equal(a, number(a, b), where); }
Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b, Where caller) {
  return pointwise(
      PointwiseName("where", caller), [](auto m, auto x, auto y) { return where(m != 0.0, x, y); },
      mask, a, b);
}

namespace {

const RegisterOp greater_row{{
    .name = "greater",
    .signature = "greater(a, b)",
    .summary = "1 where a > b, 0 elsewhere",
    .samples = {normal_sample({{3, 5}, {5}}, [](auto in) { return greater(in[0], in[1]); }),
                normal_sample({{3, 5}}, [](auto in) { return greater(in[0], 0.0); })},
    .wrong = {[] {
      greater(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
    .differentiable = false,
}};
const RegisterOp less_row{{
    .name = "less",
    .signature = "less(a, b)",
    .summary = "1 where a < b, 0 elsewhere",
    .samples = {normal_sample({{3, 5}, {5}}, [](auto in) { return less(in[0], in[1]); }),
                normal_sample({{3, 5}}, [](auto in) { return less(in[0], 0.0); })},
    .wrong = {[] {
      less(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
    .differentiable = false,
}};
const RegisterOp equal_row{{
    .name = "equal",
    .signature = "equal(a, b)",
    .summary = "1 where a = b, 0 elsewhere",
    .samples = {normal_sample({{3, 5}, {5}}, [](auto in) { return equal(in[0], in[1]); }),
                normal_sample({{3, 5}}, [](auto in) { return equal(in[0], 0.0); })},
    .wrong = {[] {
      equal(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}));
    }},
    .differentiable = false,
}};
const RegisterOp where_row{{
    .name = "where",
    .signature = "where(mask, a, b)",
    .summary = "a where the mask is not 0, b elsewhere",
    .samples = {normal_sample({{3, 5}, {3, 5}, {5}},
                              [](auto in) { return where(greater(in[0], 0.0), in[1], in[2]); }),
                normal_sample({{3, 1}, {3, 5}, {1}},
                              [](auto in) { return where(less(in[0], 0.2), in[1], in[2]); })},
}};

}  // namespace

}  // namespace unroll
