#include <unroll/graph/tape.h>
#include <unroll/ops/cast.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/table.h>

namespace unroll {
namespace {

struct Cast : OpRecord<Cast> {
  DType dtype;
  explicit Cast(DType to) : dtype(to) {}

  const char* name() const override { return "cast"; }
  bool allocates() const override { return true; }
  Keep keep() const override { return {.inputs = 0}; }
  void infer(Args in, std::span<Spec> out) const override { out[0] = {in[0].shape(), dtype}; }
  void forward(Args in, std::span<Tensor> out) const override { out[0] = in[0].to(dtype); }
  void vjp(Vjp& v) const override {
    if (is_float(dtype) && is_float(v.inputs[0].dtype()))
      v.result[0] = cast(v.grads[0], v.inputs[0].dtype());
  }
  Rows rows(Args in, std::span<const bool>) const override {
    return in[0].rank() > 0 ? Rows::map : Rows::none;
  }
};

}  // namespace

Tensor cast(const Tensor& x, DType dtype, Where where) {
  return x.dtype() == dtype ? x : apply(Cast(dtype), {&x}, where);
}

namespace {

const RegisterOp cast_row{{
    .name = "cast",
    .signature = "cast(x, dtype)",
    .summary = "x in another dtype",
    .samples = {normal_sample(
        {{3, 5}}, [](auto in) { return cast(cast(in[0], DType::f64), in[0].dtype()); })},
}};

}  // namespace
}  // namespace unroll
