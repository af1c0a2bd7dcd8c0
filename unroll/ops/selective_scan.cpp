#include <fmt/format.h>
#include <unroll/ops/kept_states.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/selective_scan.h>
#include <unroll/ops/selective_scan_kernels.h>

#include <cmath>

namespace unroll {
namespace {

using detail::SelectiveShape;

template <class T>
using Scratch = std::vector<T, CachedAllocator<T>>;

SelectiveShape shape_of(const Tensor& x, const Tensor& a) {
  return {.steps = x.size(0), .batch = x.size(1), .channels = x.size(2), .states = a.size(1)};
}

// a [D, N] as [N, D].
template <class T>
Scratch<T> transposed(const SelectiveShape& s, const T* a) {
  Scratch<T> result(static_cast<std::size_t>(s.state_size()));
  for (std::int64_t d = 0; d < s.channels; ++d)
    for (std::int64_t n = 0; n < s.states; ++n)
      result[static_cast<std::size_t>(n * s.channels + d)] = a[d * s.states + n];
  return result;
}

// In the order of the op's inputs.
template <class T>
detail::SelectiveInputs<T> inputs(Args in, const T* a) {
  return {.x = in[0].ptr<T>(),
          .dt = in[1].ptr<T>(),
          .a = a,
          .b = in[3].ptr<T>(),
          .c = in[4].ptr<T>(),
          .h0 = in[5].ptr<T>()};
}

struct SelectiveScanBackward : OpRecord<SelectiveScanBackward> {
  const char* name() const override { return "selective_scan_backward"; }
  int outputs() const override { return 6; }
  // in: the op's six inputs, the kept states, the gradient of y, (of the last state)
  void infer(Args in, std::span<Spec> out) const override {
    for (std::size_t i = 0; i < 6; ++i) out[i] = in[i].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      const SelectiveShape s = shape_of(in[0], in[2]);
      const Scratch<T> a = transposed(s, in[2].ptr<T>());
      Scratch<T> da(static_cast<std::size_t>(s.batch * s.state_size()));
      const std::int64_t rows = s.steps * s.batch * s.states;
      // One block of channels writes where it should; several are summed in order.
      const bool several = s.blocks() > 1;
      Scratch<T> parts(several ? static_cast<std::size_t>(2 * s.blocks() * rows) : 0);
      T *db = out[3].mutable_ptr<T>(), *dc = out[4].mutable_ptr<T>();
      detail::selective_scan_backward<T>(s, inputs<T>(in, a.data()), in[6].ptr<T>(), in[7].ptr<T>(),
                                         in.size() > 8 ? in[8].ptr<T>() : nullptr,
                                         {.x = out[0].mutable_ptr<T>(),
                                          .dt = out[1].mutable_ptr<T>(),
                                          .a = da.data(),
                                          .b = several ? parts.data() : db,
                                          .c = several ? parts.data() + s.blocks() * rows : dc,
                                          .h0 = out[5].mutable_ptr<T>()});
      const auto add_up = [&](const T* blocks, T* to) {
        for (std::int64_t i = 0; i < rows; ++i) {
          double sum = 0;
          for (std::int64_t k = 0; k < s.blocks(); ++k)
            sum += static_cast<double>(blocks[k * rows + i]);
          to[i] = static_cast<T>(sum);
        }
      };
      if (several) {
        add_up(parts.data(), db);
        add_up(parts.data() + s.blocks() * rows, dc);
      }
      T* to = out[2].mutable_ptr<T>();
      for (std::int64_t d = 0; d < s.channels; ++d)
        for (std::int64_t n = 0; n < s.states; ++n) {
          double sum = 0;
          for (std::int64_t b = 0; b < s.batch; ++b)
            sum += static_cast<double>(
                da[static_cast<std::size_t>((b * s.states + n) * s.channels + d)]);
          to[d * s.states + n] = static_cast<T>(sum);
        }
    });
  }
  std::size_t workspace(Args in) const override {
    const SelectiveShape s = shape_of(in[0], in[2]);
    const std::int64_t parts = s.blocks() > 1 ? 2 * s.blocks() * s.steps * s.batch * s.states : 0;
    const std::int64_t scratch = in[0].dtype() == DType::f64 ? detail::selective_scratch<double>(s)
                                                             : detail::selective_scratch<float>(s);
    return static_cast<std::size_t>(((s.batch + 1) * s.state_size() + parts + scratch) *
                                    size_of(in[0].dtype()));
  }
  Keep keep() const override { return {.inputs = 0}; }
};

struct SelectiveScan : OpRecord<SelectiveScan> {
  const char* name() const override { return "selective_scan"; }
  int outputs() const override { return 3; }  // y, the last state, the kept ones
  // in: x, dt, a, b, c, h0
  void infer(Args in, std::span<Spec> out) const override {
    const Shape &x = in[0].shape(), &a = in[2].shape();
    const bool ranks = x.rank() == 3 && a.rank() == 2 && x[0] > 0 && a[0] == x[2];
    if (!ranks || in[1].shape() != x || in[3].shape() != x.with(2, a[1]) ||
        in[4].shape() != in[3].shape() || in[5].shape() != Shape{x[1], a[1], x[2]})
      fail_shape(name(),
                 fmt::format("x {}, dt {}, a {}, b {}, c {}, h0 {}", to_string(x),
                             to_string(in[1].shape()), to_string(a), to_string(in[3].shape()),
                             to_string(in[4].shape()), to_string(in[5].shape())),
                 "x and dt are [T, B, D], a [D, N], b and c [T, B, N], h0 [B, N, D], T 1 or more");
    for (std::size_t i = 1; i < in.size(); ++i)
      if (in[i].dtype() != in[0].dtype())
        fail(name(), fmt::format("x {} and {}", to_string(in[0]), to_string(in[i])),
             "Convert one of them with cast()");
    out[0] = in[0].spec();
    out[1] = in[5].spec();
    out[2] = {in[5].shape().inserted(0, shape_of(in[0], in[2]).kept()), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      const SelectiveShape s = shape_of(in[0], in[2]);
      const Scratch<T> a = transposed(s, in[2].ptr<T>());
      detail::selective_scan<T>(s, inputs<T>(in, a.data()), out[0].mutable_ptr<T>(),
                                out[1].mutable_ptr<T>(), out[2].mutable_ptr<T>());
    });
  }
  std::size_t workspace(Args in) const override {
    return static_cast<std::size_t>(in[2].numel() * size_of(in[2].dtype()));
  }
  Keep keep() const override { return {.inputs = 0b111111, .outputs = 0b100}; }
  void vjp(Vjp& v) const override { detail::recurrence_vjp(v, SelectiveScanBackward()); }
};

}  // namespace

std::array<Tensor, 2> selective_scan(const Tensor& x, const Tensor& dt, const Tensor& a,
                                     const Tensor& b, const Tensor& c, const Tensor& h0,
                                     Where where) {
  const Tensor* in[] = {&x, &dt, &a, &b, &c, &h0};
  Tensor out[3];
  apply(SelectiveScan(), Args(in), out, where);
  return {out[0], out[1]};
}

namespace {

using In = std::span<const Tensor>;

// Steps of positive size and decaying states, as a model has them.
OpSample sample(std::int64_t steps, std::int64_t batch, std::int64_t channels, std::int64_t states,
                std::vector<std::size_t> wrt = {}) {
  return {.inputs =
              [=](Generator& g) {
                const Shape x{steps, batch, channels}, b{steps, batch, states};
                return std::vector<Tensor>{g.normal(x, 0, 1, DType::f64),
                                           g.uniform(x, 0.1, 0.9, DType::f64),
                                           g.uniform({channels, states}, -2, -0.1, DType::f64),
                                           g.normal(b, 0, 1, DType::f64),
                                           g.normal(b, 0, 1, DType::f64),
                                           g.normal({batch, states, channels}, 0, 1, DType::f64)};
              },
          .call = [](In in) -> std::vector<Tensor> {
            const auto [y, last] = selective_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
            return {y, last};
          },
          .wrt = std::move(wrt)};
}

void call_with(const Shape& dt, const Shape& a, const Shape& h0) {
  selective_scan(Tensor::zeros({4, 2, 3}), Tensor::zeros(dt), Tensor::zeros(a),
                 Tensor::zeros({4, 2, 5}), Tensor::zeros({4, 2, 5}), Tensor::zeros(h0));
}

const RegisterOp selective_scan_row{{
    .name = "selective_scan",
    .signature = "selective_scan(x, dt, a, b, c, h0)",
    .summary = "Mamba's recurrence: h = exp(dt a) h + dt b x, y = c h; and the last state",
    // The second passes two boundaries of chunks, the third has more channels than a block.
    .samples = {sample(3, 2, 5, 3), sample(34, 1, 3, 2), sample(2, 1, 258, 2, {2, 3, 4}),
                sample(1, 1, 1, 1)},
    .wrong = {[] {
                call_with({4, 2, 4}, {3, 5}, {2, 5, 3});
              },
              [] {
                call_with({4, 2, 3}, {4, 5}, {2, 5, 3});
              },
              [] {
                call_with({4, 2, 3}, {3, 5}, {2, 3, 5});
              }},
    .twice = false,
}};

}  // namespace
}  // namespace unroll
