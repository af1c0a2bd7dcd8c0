#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/check.h>
#include <unroll/ops/lane_loops.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/samples.h>
#include <unroll/ops/softmax.h>

#include <algorithm>
#include <cmath>

namespace unroll {
namespace {

// Runs f(begin, end) over rows of `classes` elements.
template <class F>
void over_rows(std::int64_t rows, std::int64_t classes, const F& f) {
  parallel_for(rows, std::max<std::int64_t>(1, 4096 / classes),
               16.0 * static_cast<double>(rows * classes), f);
}

struct Attributes {
  std::int64_t ignore_index;
  double smoothing;
  Reduction reduction;

  template <class I>
  std::int64_t counted(const I* targets, std::int64_t rows) const {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < rows; ++i) count += targets[i] != ignore_index;
    return count;
  }
  /// What a row's loss is multiplied by.
  template <class I>
  double weight(const I* targets, std::int64_t rows) const {
    if (reduction != Reduction::mean) return 1;
    return 1.0 / static_cast<double>(std::max<std::int64_t>(1, counted(targets, rows)));
  }
  Rows rows(Args in, std::span<const bool> stacked) const {
    const bool all = std::find(stacked.begin(), stacked.end(), false) == stacked.end();
    return all && reduction == Reduction::none && in[0].rank() > 1 ? Rows::map : Rows::none;
  }
};

// Per row the factor between its own loss and the reduced one: 0 where ignored.
struct RowWeights : OpRecord<RowWeights> {
  Attributes a;
  DType dtype;
  RowWeights(const Attributes& attributes, DType type) : a(attributes), dtype(type) {}

  const char* name() const override { return "cross_entropy_weights"; }
  void infer(Args in, std::span<Spec> out) const override { out[0] = {in[0].shape(), dtype}; }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), dtype, [&](auto zero) {
      with_index(name(), in[0].dtype(), [&](auto i) {
        using T = decltype(zero);
        const auto* targets = in[0].ptr<decltype(i)>();
        const std::int64_t rows = in[0].numel();
        const T weight = static_cast<T>(a.weight(targets, rows));
        for (std::int64_t row = 0; row < rows; ++row)
          out[0].mutable_ptr<T>()[row] = targets[row] == a.ignore_index ? T(0) : weight;
      });
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  bool differentiable() const override { return false; }
};

struct CrossEntropyBackward : OpRecord<CrossEntropyBackward> {
  Attributes a;
  explicit CrossEntropyBackward(const Attributes& attributes) : a(attributes) {}

  const char* name() const override { return "cross_entropy_backward"; }
  // in: logits [..., C], targets [...], each row's LogSum [..., 2], gradient [] or [...]
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[0].spec(); }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      with_index(name(), in[1].dtype(),
                 [&](auto i) { run<decltype(zero), decltype(i)>(in, out[0]); });
    });
  }
  template <class T, class I>
  void run(Args in, Tensor& out) const {
    using L = simd::Lanes<T>;
    const std::int64_t classes = in[0].size(-1), rows = in[1].numel();
    const T *x = in[0].ptr<T>(), *g = in[3].ptr<T>();
    const auto* sums = reinterpret_cast<const simd::LogSum<T>*>(in[2].ptr<T>());
    const I* targets = in[1].ptr<I>();
    T* dx = out.mutable_ptr<T>();
    const T weight = static_cast<T>(a.weight(targets, rows));
    const bool by_row = a.reduction == Reduction::none;
    over_rows(rows, classes, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        T* to = dx + row * classes;
        if (targets[row] == a.ignore_index) {
          std::fill_n(to, classes, T(0));
          continue;
        }
        const T* from = x + row * classes;
        const T factor = weight * g[by_row ? row : 0];
        const L w(factor), top(sums[row].top), rest(sums[row].rest);
        const L even(a.smoothing / static_cast<double>(classes));
        simd::for_lanes<T>(classes, [&](const auto& at) {
          at.store(to, w * (exp(at(from) - top - rest) - even));
        });
        to[targets[row]] -= factor * static_cast<T>(1 - a.smoothing);
      }
    });
  }
  Keep keep() const override { return {.inputs = 0b1111}; }
  // w (softmax(x) - target): the Jacobian by x is that of softmax; by the gradient it is linear.
  // The LogSum is a function of x and has been accounted for there.
  void vjp(Vjp& v) const override {
    const Tensor &x = v.inputs[0], &targets = v.inputs[1], &g = v.inputs[3], &u = v.grads[0];
    if (v.needed[0]) {
      const Tensor y = softmax(x);
      const Tensor uy = u * y;
      const Tensor w = g * apply(RowWeights(a, x.dtype()), {&targets}, Where::current());
      v.result[0] = unsqueeze(w, -1) * (uy - y * sum(uy, {-1}, true));
    }
    if (v.needed[3]) {
      const Tensor ones = Tensor::full(g.shape(), 1, g.dtype());
      const Tensor dx = apply(*this, {&x, &targets, &v.inputs[2], &ones}, Where::current());
      v.result[3] = a.reduction == Reduction::none ? sum(u * dx, {-1}) : sum(u * dx);
    }
  }
  Rows rows(Args in, std::span<const bool> stacked) const override { return a.rows(in, stacked); }
};

struct CrossEntropy : OpRecord<CrossEntropy> {
  Attributes a;
  explicit CrossEntropy(const Attributes& attributes) : a(attributes) {}

  const char* name() const override { return "cross_entropy"; }
  int outputs() const override { return 2; }  // the loss, and each row's LogSum for the walk back
  void infer(Args in, std::span<Spec> out) const override {
    const Shape &x = in[0].shape(), &targets = in[1].shape();
    if (x.rank() < 1 || x[-1] == 0 || x.without(-1) != targets)
      fail_shape(name(), fmt::format("logits {} and targets {}", to_string(x), to_string(targets)),
                 "Logits are [..., C] and targets [...]: the classes are the last axis");
    out[0] = {a.reduction == Reduction::none ? targets : Shape{}, in[0].dtype()};
    out[1] = {x.with(-1, 2), in[0].dtype()};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    check_indices(name(), in[1], in[0].size(-1), "classes", a.ignore_index);
    with_float(name(), in[0].dtype(), [&](auto zero) {
      with_index(name(), in[1].dtype(), [&](auto i) { run<decltype(zero), decltype(i)>(in, out); });
    });
  }
  std::size_t workspace(Args in) const override {  // each row's loss
    return a.reduction == Reduction::none
               ? 0
               : static_cast<std::size_t>(in[1].numel() * size_of(in[0].dtype()));
  }
  template <class T, class I>
  void run(Args in, std::span<Tensor> out) const {
    const std::int64_t classes = in[0].size(-1), rows = in[1].numel();
    const T* x = in[0].ptr<T>();
    const I* targets = in[1].ptr<I>();
    auto* sums = reinterpret_cast<simd::LogSum<T>*>(out[1].mutable_ptr<T>());
    const bool by_row = a.reduction == Reduction::none;
    Tensor scratch = by_row ? out[0] : Tensor::empty({rows}, in[0].dtype());
    T* losses = scratch.mutable_ptr<T>();
    over_rows(rows, classes, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* from = x + row * classes;
        if (targets[row] == a.ignore_index) {
          sums[row] = {0, 0};
          losses[row] = 0;
          continue;
        }
        const auto value = [from](const auto& at) { return at(from); };
        const simd::LogSum<T> sum = sums[row] = simd::log_sum<T>(classes, value);
        T loss = sum.rest - (from[targets[row]] - sum.top);
        if (a.smoothing != 0) {
          const double mean = simd::sum_of<T>(classes, value) / static_cast<double>(classes);
          loss += static_cast<T>(a.smoothing * (static_cast<double>(from[targets[row]]) - mean));
        }
        losses[row] = loss;
      }
    });
    if (by_row) return;
    const double total = simd::sum_of<T>(rows, [losses](const auto& at) { return at(losses); });
    *out[0].mutable_ptr<T>() = static_cast<T>(total * a.weight(targets, rows));
  }
  Keep keep() const override { return {.inputs = 0b11, .outputs = 0b10}; }
  void vjp(Vjp& v) const override {
    if (v.needed[0] && v.grads[0].defined())
      v.result[0] =
          apply(CrossEntropyBackward(a), {&v.inputs[0], &v.inputs[1], &v.outputs[1], &v.grads[0]},
                Where::current());
  }
  Rows rows(Args in, std::span<const bool> stacked) const override { return a.rows(in, stacked); }
};

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets,
                     const CrossEntropyOptions& options, Where where) {
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1))
    fail("cross_entropy", fmt::format("label_smoothing {} is not in 0..1", options.label_smoothing),
         where);
  const CrossEntropy op({options.ignore_index, options.label_smoothing, options.reduction});
  Tensor results[2];
  const Tensor* inputs[] = {&logits, &targets};
  apply(op, Args(inputs), results, where);
  return results[0];
}

namespace {

OpSample sample(const Shape& logits, DType dtype, const CrossEntropyOptions& options) {
  return {.inputs =
              [=](Generator& g) {
                Tensor targets = Tensor::empty(logits.without(-1), DType::i64);
                for (std::int64_t& i : targets.mutable_data<std::int64_t>())
                  i = g.below(logits[-1]);
                if (targets.numel() > 2)
                  targets.mutable_data<std::int64_t>()[1] = options.ignore_index;
                return std::vector{g.normal(logits, 0, 1, DType::f64), targets.to(dtype)};
              },
          .call =
              [=](std::span<const Tensor> in) {
                return std::vector{cross_entropy(in[0], in[1], options)};
              }};
}

Tensor targets(std::initializer_list<std::int64_t> values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

const RegisterOp row{{
    .name = "cross_entropy",
    .signature = "cross_entropy(logits, targets, {.ignore_index, .label_smoothing, .reduction})",
    .summary = "-log softmax(logits) at the targets",
    .samples = {sample({5, 7}, DType::i64, {}), sample({7}, DType::i64, {}),
                sample({4, 18}, DType::i32, {.label_smoothing = 0.1}),
                sample({2, 3, 17}, DType::i64, {.ignore_index = 2, .reduction = Reduction::sum}),
                sample({2, 2, 2, 3}, DType::i64,
                       {.label_smoothing = 0.2, .reduction = Reduction::none})},
    .wrong = {[] {
                cross_entropy(Tensor::zeros({2, 3}), targets({0, 3}));
              },
              [] {
                cross_entropy(Tensor::zeros({2, 3}), targets({0, -1}));
              },
              [] {
                cross_entropy(Tensor::zeros({2, 3}), targets({0}));
              },
              [] { cross_entropy(Tensor::zeros({}), targets({0})); }},
}};

}  // namespace
}  // namespace unroll
