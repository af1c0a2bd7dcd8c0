#include <fmt/format.h>
#include <unroll/graph/kernel.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/gemm.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/table.h>

#include <cstring>
#include <optional>

namespace unroll {
namespace {

Tensor product(const Tensor& a, const Tensor& b, const MatmulOptions& options, DType precision,
               Where where = Where::current());

template <class T>
class MatmulKernel : public Kernel {
 public:
  /// `weight`: the second operand, where all calls share it.
  MatmulKernel(const Gemm& g, std::size_t result_bytes, bool shares_weight, const T* weight)
      : gemm_(g), result_bytes_(result_bytes) {
    if (shares_weight) packed_.emplace(g, weight);
  }

  void run(const std::byte* const* in, std::byte* const* out) const override {
    const auto* a = reinterpret_cast<const T*>(in[0]);
    auto* c = reinterpret_cast<T*>(out[0]);
    if (gemm_.accumulate && out[0] != in[2]) std::memcpy(out[0], in[2], result_bytes_);
    const T* bias = gemm_.bias ? reinterpret_cast<const T*>(in[2]) : nullptr;
    if (packed_) return packed_->run(a, bias, c);
    gemm(gemm_, a, reinterpret_cast<const T*>(in[1]), bias, c);
  }
  void refresh(const std::byte* const* in) const override {
    if (packed_) packed_->pack(reinterpret_cast<const T*>(in[1]));
  }
  void settle(const std::byte* const* in) const override {
    if (packed_) packed_->settle(reinterpret_cast<const T*>(in[1]));
  }

 private:
  Gemm gemm_;
  std::size_t result_bytes_;
  mutable std::optional<PackedGemm<T>> packed_;
};

struct Matmul : OpRecord<Matmul> {
  bool transpose_a = false;
  bool transpose_b = false;
  DType precision = DType::f32;  // of f32 operands: that of the tape that ran it, its walk back too

  Matmul(bool ta, bool tb, DType p) : transpose_a(ta), transpose_b(tb), precision(p) {}

  const char* name() const override { return "matmul"; }

  static Shape leading(const Shape& shape) {
    return Shape(std::span(shape.begin(), static_cast<std::size_t>(shape.rank() - 2)));
  }

  [[noreturn]] void fail_sizes(const Tensor& a, const Tensor& b, std::int64_t k_a) const {
    std::string hint;
    const std::int64_t other = transpose_b ? b.shape()[-2] : b.shape()[-1];
    if (other == k_a)
      hint = transpose_b ? "Did you mean matmul(a, b) without transpose_b?"
                         : "Did you mean matmul(a, b, {.transpose_b = true})?";
    fail_shape(name(),
               fmt::format("inner sizes differ: a {}{} and b {}{}", to_string(a.shape()),
                           transpose_a ? " transposed" : "", to_string(b.shape()),
                           transpose_b ? " transposed" : ""),
               hint);
  }

  void infer(Args in, std::span<Spec> out) const override {
    const Tensor &a = in[0], &b = in[1];
    if (a.rank() < 2 || b.rank() < 2)
      fail_shape(name(),
                 fmt::format("needs two axes or more, got a {} and b {}", to_string(a.shape()),
                             to_string(b.shape())),
                 "Give a vector a row or column axis with unsqueeze()");
    if (a.dtype() != b.dtype() || !is_float(a.dtype()))
      fail(name(), fmt::format("dtypes: a {} and b {}", to_string(a), to_string(b)),
           "Both must be f32 or both f64; convert with cast()");
    const std::int64_t m = a.shape()[transpose_a ? -1 : -2], k_a = a.shape()[transpose_a ? -2 : -1];
    const std::int64_t k_b = b.shape()[transpose_b ? -1 : -2], n = b.shape()[transpose_b ? -2 : -1];
    if (k_a != k_b) fail_sizes(a, b, k_a);
    const Shape lead_a = leading(a.shape()), lead_b = leading(b.shape());
    if (lead_a.rank() > 0 && lead_b.rank() > 0 && lead_a != lead_b)
      fail_shape(name(),
                 fmt::format("leading axes differ: a {} and b {}", to_string(a.shape()),
                             to_string(b.shape())),
                 "They must be equal, or missing on one side");
    Shape shape = lead_a.rank() > 0 ? lead_a : lead_b;
    shape = shape.inserted(shape.rank(), m);
    shape = shape.inserted(shape.rank(), n);
    if (in.size() > 2) {
      const Shape& add = in[2].shape();
      if (!(add == shape) && !(add.rank() == 1 && add[0] == n))
        fail_shape(name(), fmt::format("add {} fits neither the result {} nor its rows [{}]",
                                       to_string(add), to_string(shape), n));
      if (in[2].dtype() != a.dtype())
        fail(name(), fmt::format("dtypes: a {} and add {}", to_string(a), to_string(in[2])));
    }
    out[0] = {shape, a.dtype()};
  }

  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) { run<decltype(zero)>(in, out[0]); });
  }

  std::size_t workspace(Args in) const override {
    Spec out;
    infer(in, std::span(&out, 1));
    return gemm_workspace(gemm_of(in, out.shape), out.dtype);
  }

  template <class T>
  void run(Args in, Tensor& out) const {
    const Gemm g = gemm_of(in, out.shape());
    if (g.accumulate)
      std::memcpy(out.bytes(), in[2].bytes(), static_cast<std::size_t>(out.numel()) * sizeof(T));
    gemm(g, in[0].ptr<T>(), in[1].ptr<T>(), g.bias ? in[2].ptr<T>() : nullptr,
         out.mutable_ptr<T>());
  }

  Gemm gemm_of(Args in, const Shape& out) const {
    const Shape &a = in[0].shape(), &b = in[1].shape();
    Gemm g{.transpose_a = transpose_a, .transpose_b = transpose_b};
    g.bf16 = precision == DType::bf16 && in[0].dtype() == DType::f32;
    g.m = out[-2];
    g.n = out[-1];
    g.k = a[transpose_a ? -2 : -1];
    if (b.rank() == 2 && !transpose_a) {
      g.m = out.numel() / std::max<std::int64_t>(1, g.n);  // all leading axes are rows
    } else {
      for (int i = 0; i + 2 < out.rank(); ++i) g.batch *= out[i];
      g.step_a = a.rank() > 2 ? g.m * g.k : 0;
      g.step_b = b.rank() > 2 ? g.k * g.n : 0;
      g.step_c = g.m * g.n;
      if (g.batch == 1) g.step_a = g.step_b = g.step_c = 0;
    }
    if (in.size() > 2) (in[2].rank() == 1 ? g.bias : g.accumulate) = true;
    return g;
  }

  const Kernel* bind(Args in, std::span<const bool> fixed, Arena& arena) const override {
    Spec out;
    infer(in, std::span(&out, 1));
    const Gemm g = gemm_of(in, out.shape);
    const bool shared = fixed[1] && g.batch == 1 && !g.transpose_a;
    return with_float(name(), out.dtype, [&](auto zero) -> const Kernel* {
      using T = decltype(zero);
      return arena.emplace<MatmulKernel<T>>(
          g, static_cast<std::size_t>(out.shape.numel()) * sizeof(T), shared, in[1].ptr<T>());
    });
  }
  std::uint32_t in_place(Args in, std::size_t) const override {
    return in.size() > 2 && in[2].rank() > 1 ? 0b100 : 0;
  }

  Keep keep() const override { return {.inputs = 0b11}; }

  void vjp(Vjp& v) const override {
    const Tensor &a = v.inputs[0], &b = v.inputs[1], &g = v.grads[0];
    if (v.needed[0]) {
      const Tensor grad =
          transpose_a ? product(b, g, {.transpose_a = transpose_b, .transpose_b = true}, precision)
                      : product(g, b, {.transpose_b = !transpose_b}, precision);
      v.result[0] = sum_to(grad, a.shape());
    }
    if (v.needed[1]) {
      // A weight shared by all leading axes: one product over all their rows.
      const bool fold = b.rank() == 2 && !transpose_a && a.rank() > 2;
      const Tensor rows_a = fold ? as_rows(a) : a, rows_g = fold ? as_rows(g) : g;
      const Tensor grad =
          transpose_b ? product(rows_g, rows_a, {.transpose_a = true, .transpose_b = transpose_a},
                                precision)
                      : product(rows_a, rows_g, {.transpose_a = !transpose_a}, precision);
      v.result[1] = sum_to(grad, b.shape());
    }
    if (v.inputs.size() > 2 && v.needed[2]) v.result[2] = sum_to(g, v.inputs[2].shape());
  }

  static Tensor as_rows(const Tensor& x) { return reshape(x, {-1, x.shape()[-1]}); }

  Rows rows(Args in, std::span<const bool> stacked) const override {
    const bool add_full = in.size() > 2 && in[2].rank() > 1;
    // The rows of a (and of a full add) pass through; the weight and a bias are shared.
    if (stacked[0] && !stacked[1] && in[1].rank() == 2 && !(transpose_a && in[0].rank() == 2) &&
        (in.size() < 3 || stacked[2] == add_full))
      return Rows::map;
    // a^T b sums over the rows of both: a weight's gradient.
    if (stacked[0] && stacked[1] && in[0].rank() == 2 && in[1].rank() == 2 && transpose_a &&
        !transpose_b && in.size() == 2)
      return Rows::sum;
    return Rows::none;
  }
};

Tensor product(const Tensor& a, const Tensor& b, const MatmulOptions& options, DType precision,
               Where where) {
  const Matmul op(options.transpose_a, options.transpose_b, precision);
  if (options.add.defined()) return apply(op, {&a, &b, &options.add}, where);
  return apply(op, {&a, &b}, where);
}

Tensor random(Generator& g, const Shape& shape) { return g.normal(shape, 0, 1, DType::f64); }

// A sample: shapes of a, b and, where not empty, of what is added.
OpSample sample(const Shape& a, const Shape& b, const Shape& add, bool ta, bool tb) {
  return {.inputs =
              [=](Generator& g) {
                std::vector<Tensor> inputs{random(g, a), random(g, b)};
                if (add.rank() > 0) inputs.push_back(random(g, add));
                return inputs;
              },
          .call = [=](std::span<const Tensor> in) -> std::vector<Tensor> {
            return {matmul(
                in[0], in[1],
                {.transpose_a = ta, .transpose_b = tb, .add = in.size() > 2 ? in[2] : Tensor()})};
          }};
}

const RegisterOp row{{
    .name = "matmul",
    .signature = "matmul(a, b, {.transpose_a, .transpose_b, .add})",
    .summary = "Product of matrices or batches of them, transposes as flags, plus a bias or tensor",
    .samples = {sample({3, 5}, {5, 4}, {}, false, false), sample({5, 3}, {5, 4}, {}, true, false),
                sample({3, 5}, {4, 5}, {4}, false, true), sample({5, 3}, {4, 5}, {}, true, true),
                sample({2, 3, 5}, {5, 4}, {4}, false, false),
                sample({2, 3, 5}, {2, 4, 5}, {2, 3, 4}, false, true),
                sample({2, 2, 3, 2}, {2, 2, 3, 5}, {}, true, false),
                sample({3, 5}, {2, 5, 4}, {}, false, false)},
    .wrong = {[] {
                matmul(Tensor::zeros({2, 3}), Tensor::zeros({4, 3}));
              },
              [] {
                matmul(Tensor::zeros({2, 3, 4}), Tensor::zeros({3, 4, 2}));
              },
              [] {
                matmul(Tensor::zeros({3}), Tensor::zeros({3, 2}));
              }},
}};

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, const MatmulOptions& options, Where where) {
  const Tape* tape = Tape::current();
  return product(a, b, options, tape != nullptr ? tape->precision() : DType::f32, where);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Where where) {
  return matmul(x, weight, {.transpose_b = true, .add = bias}, where);
}

}  // namespace unroll
