#include <unroll/graph/accumulate.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>

namespace unroll {
namespace {

template <class T>
void add(const T* a, const T* b, T* out, std::int64_t n) {
  parallel_for(n, 16384, 10.0 * static_cast<double>(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[i] = a[i] + b[i];
  });
}

struct Accumulate : OpRecord<Accumulate> {
  const char* name() const override { return "accumulate"; }
  void infer(Args in, std::span<Spec> out) const override {
    if (in[0].shape() != in[1].shape() || in[0].dtype() != in[1].dtype())
      fail_shape(name(),
                 "gradients " + to_string(in[0]) + " and " + to_string(in[1]) + " for one value");
    out[0] = in[0].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      add(in[0].ptr<T>(), in[1].ptr<T>(), out[0].mutable_ptr<T>(), in[0].numel());
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override { v.result[0] = v.result[1] = v.grads[0]; }
  bool linear() const override { return true; }
  Rows rows(Args, std::span<const bool> stacked) const override {
    return stacked[0] && stacked[1] ? Rows::map : Rows::none;
  }
};

}  // namespace

Tensor accumulate(const Tensor& a, const Tensor& b) {
  return apply(Accumulate{}, {&a, &b}, Where::current());
}

void accumulate_into(Tensor& sum, const Tensor& part) {
  if (!can_overwrite(sum) || (sum.is_abstract() && !detail::dry) || sum.shape() != part.shape() ||
      sum.dtype() != part.dtype()) {
    sum = accumulate(sum, part);
    return;
  }
  if (detail::dry) return;
  with_float("accumulate", sum.dtype(), [&](auto zero) {
    using T = decltype(zero);
    add(sum.ptr<T>(), part.ptr<T>(), sum.mutable_ptr<T>(), sum.numel());
  });
}

}  // namespace unroll
