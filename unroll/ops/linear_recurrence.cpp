#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/lane_loops.h>
#include <unroll/ops/linear_recurrence.h>
#include <unroll/ops/samples.h>

namespace unroll {
namespace {

// Steps of `width` elements, each a recurrence of its own. A piece is a strip of them, walked along
// time by vectors: what is read of the step before is still in the first cache.
struct Strips {
  std::int64_t steps, width;
  explicit Strips(const Tensor& a) : steps(a.size(0)), width(steps == 0 ? 0 : a.numel() / steps) {}

  template <class F>
  void over(double operations, const F& f) const {
    parallel_for(width, 512, operations * static_cast<double>(steps * width), f);
  }
};

template <class T>
void run_recurrence(const Strips& s, const T* a, const T* b, const T* h0, T* h) {
  using L = simd::Lanes<T>;
  s.over(2, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < s.steps; ++t) {
      const std::int64_t row = t * s.width + begin;
      const T* before = t == 0 ? h0 + begin : h + row - s.width;
      simd::for_lanes<T>(end - begin, [&](const auto& at) {
        at.store(h + row, L(simd::hn::MulAdd(at(a + row).v, at(before).v, at(b + row).v)));
      });
    }
  });
}

// db_t = g_t + a_(t+1) db_(t+1), da_t = db_t h_(t-1), dh0 = a_0 db_0.
template <class T>
void run_recurrence_backward(const Strips& s, const T* a, const T* h0, const T* h, const T* g,
                             T* da, T* db, T* dh0) {
  using L = simd::Lanes<T>;
  s.over(4, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t n = end - begin;
    for (std::int64_t t = s.steps; t-- > 0;) {
      const std::int64_t row = t * s.width + begin, next = row + s.width;
      const T* before = t == 0 ? h0 + begin : h + row - s.width;
      const bool last = t + 1 == s.steps;
      simd::for_lanes<T>(n, [&](const auto& at) {
        const L d = last ? at(g + row)
                         : L(simd::hn::MulAdd(at(a + next).v, at(db + next).v, at(g + row).v));
        at.store(db + row, d);
        at.store(da + row, d * at(before));
      });
    }
    simd::for_lanes<T>(n, [&](const auto& at) {
      at.store(dh0 + begin, s.steps == 0 ? L() : at(a + begin) * at(db + begin));
    });
  });
}

struct LinearRecurrenceBackward : OpRecord<LinearRecurrenceBackward> {
  const char* name() const override { return "linear_recurrence_backward"; }
  int outputs() const override { return 3; }
  // in: a, h0, h, gradient; out: gradients of a, b, h0
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = out[1] = in[0].spec();
    out[2] = in[1].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      run_recurrence_backward<T>(Strips(in[0]), in[0].ptr<T>(), in[1].ptr<T>(), in[2].ptr<T>(),
                                 in[3].ptr<T>(), out[0].mutable_ptr<T>(), out[1].mutable_ptr<T>(),
                                 out[2].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
};

struct LinearRecurrence : OpRecord<LinearRecurrence> {
  const char* name() const override { return "linear_recurrence"; }
  // in: a, b, h0
  void infer(Args in, std::span<Spec> out) const override {
    const Shape& a = in[0].shape();
    if (a.rank() < 1 || a[0] < 1 || in[1].shape() != a || in[2].shape() != a.without(0))
      fail_shape(name(),
                 fmt::format("a {}, b {} and h0 {}", to_string(a), to_string(in[1].shape()),
                             to_string(in[2].shape())),
                 "a and b are [T, ...] with T of 1 or more, h0 is [...]");
    for (std::size_t i = 1; i < 3; ++i)
      if (in[i].dtype() != in[0].dtype())
        fail(name(),
             fmt::format("a {} and {} {}", to_string(in[0]), i == 1 ? "b" : "h0", to_string(in[i])),
             "Convert one of them with cast()");
    out[0] = in[0].spec();
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      run_recurrence<T>(Strips(in[0]), in[0].ptr<T>(), in[1].ptr<T>(), in[2].ptr<T>(),
                        out[0].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = 0b101, .outputs = 0b1}; }
  void vjp(Vjp& v) const override {
    if (!v.grads[0].defined()) return;
    Tensor gradients[3];
    const Tensor* in[] = {&v.inputs[0], &v.inputs[2], &v.outputs[0], &v.grads[0]};
    apply(LinearRecurrenceBackward(), Args(in), gradients, Where::current());
    for (std::size_t i = 0; i < 3; ++i)
      if (v.needed[i]) v.result[i] = gradients[i];
  }
};

}  // namespace

Tensor linear_recurrence(const Tensor& a, const Tensor& b, const Tensor& h0, Where where) {
  return apply(LinearRecurrence(), {&a, &b, &h0}, where);
}

namespace {

using In = std::span<const Tensor>;

const RegisterOp linear_recurrence_row{{
    .name = "linear_recurrence",
    .signature = "linear_recurrence(a, b, h0)",
    .summary = "h_t = a_t h_(t-1) + b_t along the leading axis, element by element",
    .samples = {normal_sample({{5, 2, 19}, {5, 2, 19}, {2, 19}},
                              [](In in) { return linear_recurrence(in[0], in[1], in[2]); }),
                normal_sample({{1, 3}, {1, 3}, {3}},
                              [](In in) { return linear_recurrence(in[0], in[1], in[2]); }),
                normal_sample({{4}, {4}, {}},
                              [](In in) { return linear_recurrence(in[0], in[1], in[2]); })},
    .wrong = {[] {
                linear_recurrence(Tensor::zeros({2, 3}), Tensor::zeros({2, 4}), Tensor::zeros({3}));
              },
              [] {
                linear_recurrence(Tensor::zeros({2, 3}), Tensor::zeros({2, 3}), Tensor::zeros({2}));
              },
              [] { linear_recurrence(Tensor::zeros({}), Tensor::zeros({}), Tensor::zeros({})); }},
    .twice = false,
}};

}  // namespace
}  // namespace unroll
