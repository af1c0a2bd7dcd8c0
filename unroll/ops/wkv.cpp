#include <fmt/format.h>
#include <unroll/ops/kept_states.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/wkv.h>
#include <unroll/ops/wkv_kernels.h>

namespace unroll {
namespace {

using detail::WkvShape;

WkvShape shape_of(const Tensor& r, const Tensor& u) {
  return {.steps = r.size(0), .batch = r.size(1), .heads = u.size(0), .size = u.size(1)};
}

// In the order of the op's inputs.
template <class T>
detail::WkvInputs<T> inputs(Args in) {
  return {.r = in[0].ptr<T>(),
          .k = in[1].ptr<T>(),
          .v = in[2].ptr<T>(),
          .w = in[3].ptr<T>(),
          .u = in[4].ptr<T>(),
          .s0 = in[5].ptr<T>()};
}

struct Wkv6Backward : OpRecord<Wkv6Backward> {
  const char* name() const override { return "wkv6_backward"; }
  int outputs() const override { return 6; }
  // in: the op's six inputs, the kept states, the gradient of y, (of the last state)
  void infer(Args in, std::span<Spec> out) const override {
    for (std::size_t i = 0; i < 6; ++i) out[i] = in[i].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      const WkvShape s = shape_of(in[0], in[4]);
      std::vector<T, CachedAllocator<T>> du(static_cast<std::size_t>(s.batch * s.channels()));
      detail::wkv6_backward<T>(s, inputs<T>(in), in[6].ptr<T>(), in[7].ptr<T>(),
                               in.size() > 8 ? in[8].ptr<T>() : nullptr,
                               {.r = out[0].mutable_ptr<T>(),
                                .k = out[1].mutable_ptr<T>(),
                                .v = out[2].mutable_ptr<T>(),
                                .w = out[3].mutable_ptr<T>(),
                                .u = du.data(),
                                .s0 = out[5].mutable_ptr<T>()});
      for (std::int64_t i = 0; i < s.channels(); ++i) {
        double sum = 0;
        for (std::int64_t b = 0; b < s.batch; ++b)
          sum += static_cast<double>(du[static_cast<std::size_t>(b * s.channels() + i)]);
        out[4].mutable_ptr<T>()[i] = static_cast<T>(sum);
      }
    });
  }
  std::size_t workspace(Args in) const override {
    const WkvShape s = shape_of(in[0], in[4]);
    const std::int64_t scratch = in[0].dtype() == DType::f64 ? detail::wkv_scratch<double>(s)
                                                             : detail::wkv_scratch<float>(s);
    return static_cast<std::size_t>((s.batch * s.channels() + scratch) * size_of(in[0].dtype()));
  }
  Keep keep() const override { return {.inputs = 0}; }
};

struct Wkv6 : OpRecord<Wkv6> {
  const char* name() const override { return "wkv6"; }
  int outputs() const override { return 3; }  // y, the last state, the kept ones
  // in: r, k, v, w, u, s0
  void infer(Args in, std::span<Spec> out) const override {
    const Shape &r = in[0].shape(), &u = in[4].shape();
    bool fits = r.rank() == 3 && r[0] > 0 && u.rank() == 2 && u[0] * u[1] == r[2];
    for (std::size_t i = 1; i < 4; ++i) fits = fits && in[i].shape() == r;
    if (!fits || in[5].shape() != Shape{r[1], u[0], u[1], u[1]})
      fail_shape(
          name(),
          fmt::format("r {}, k {}, v {}, w {}, u {}, s0 {}", to_string(r), to_string(in[1].shape()),
                      to_string(in[2].shape()), to_string(in[3].shape()), to_string(u),
                      to_string(in[5].shape())),
          "r, k, v and w are [T, B, heads * S], u [heads, S], s0 [B, heads, S, S], T 1 or more");
    for (std::size_t i = 1; i < in.size(); ++i)
      if (in[i].dtype() != in[0].dtype())
        fail(name(), fmt::format("r {} and {}", to_string(in[0]), to_string(in[i])),
             "Convert one of them with cast()");
    out[0] = in[0].spec();
    out[1] = in[5].spec();
    out[2] = {in[5].shape().inserted(0, shape_of(in[0], in[4]).kept()), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      detail::wkv6<T>(shape_of(in[0], in[4]), inputs<T>(in), out[0].mutable_ptr<T>(),
                      out[1].mutable_ptr<T>(), out[2].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = 0b111111, .outputs = 0b100}; }
  void vjp(Vjp& v) const override { detail::recurrence_vjp(v, Wkv6Backward()); }
};

}  // namespace

std::array<Tensor, 2> wkv6(const Tensor& r, const Tensor& k, const Tensor& v, const Tensor& w,
                           const Tensor& u, const Tensor& s0, Where where) {
  const Tensor* in[] = {&r, &k, &v, &w, &u, &s0};
  Tensor out[3];
  apply(Wkv6(), Args(in), out, where);
  return {out[0], out[1]};
}

namespace {

using In = std::span<const Tensor>;

OpSample sample(std::int64_t steps, std::int64_t batch, std::int64_t heads, std::int64_t size) {
  return {.inputs =
              [=](Generator& g) {
                const Shape x{steps, batch, heads * size};
                std::vector<Tensor> in;
                for (int i = 0; i < 3; ++i) in.push_back(g.normal(x, 0, 1, DType::f64));
                in.push_back(g.uniform(x, 0.1, 0.95, DType::f64));
                in.push_back(g.normal({heads, size}, 0, 1, DType::f64));
                in.push_back(g.normal({batch, heads, size, size}, 0, 1, DType::f64));
                return in;
              },
          .call = [](In in) -> std::vector<Tensor> {
            const auto [y, last] = wkv6(in[0], in[1], in[2], in[3], in[4], in[5]);
            return {y, last};
          }};
}

void call_with(const Shape& w, const Shape& u, const Shape& s0) {
  const Tensor x = Tensor::zeros({4, 2, 6});
  wkv6(x, x, x, Tensor::zeros(w), Tensor::zeros(u), Tensor::zeros(s0));
}

const RegisterOp wkv6_row{{
    .name = "wkv6",
    .signature = "wkv6(r, k, v, w, u, s0)",
    .summary = "RWKV-6's recurrence: S = diag(w) S + k^T v, read by r; and the last state",
    // The second passes two boundaries of chunks, the third has more columns than a vector.
    .samples = {sample(3, 2, 2, 3), sample(66, 1, 1, 2), sample(2, 1, 1, 9), sample(1, 1, 1, 1)},
    .wrong = {[] {
                call_with({4, 2, 5}, {2, 3}, {2, 2, 3, 3});
              },
              [] {
                call_with({4, 2, 6}, {2, 2}, {2, 2, 3, 3});
              },
              [] {
                call_with({4, 2, 6}, {2, 3}, {2, 3, 3, 3});
              }},
    .twice = false,
}};

}  // namespace
}  // namespace unroll
