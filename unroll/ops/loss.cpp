#include <fmt/format.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/check.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/reduce.h>
#include <unroll/ops/samples.h>

namespace unroll {
namespace {

Tensor reduced(const Tensor& losses, Reduction reduction, const Where& where) {
  if (reduction == Reduction::mean) return mean(losses, {}, false, where);
  if (reduction == Reduction::sum) return sum(losses, {}, false, where);
  return losses;
}

// A loss between tensors that broadcast is nearly always a forgotten axis.
void check_equal(const char* op, const Tensor& x, const Tensor& y, const Where& where) {
  if (x.shape() != y.shape())
    fail_shape_at(op, fmt::format("x {} and y {}", to_string(x.shape()), to_string(y.shape())),
                  where, "They must be equal; expand() one of them if that is meant");
}

}  // namespace

Tensor mse_loss(const Tensor& x, const Tensor& y, const LossOptions& options, Where where) {
  check_equal("mse_loss", x, y, where);
  return reduced(square(sub(x, y, where), where), options.reduction, where);
}

Tensor l1_loss(const Tensor& x, const Tensor& y, const LossOptions& options, Where where) {
  check_equal("l1_loss", x, y, where);
  return reduced(abs(sub(x, y, where), where), options.reduction, where);
}

Tensor huber_loss(const Tensor& x, const Tensor& y, const HuberOptions& options, Where where) {
  check_equal("huber_loss", x, y, where);
  const double delta = options.delta;
  if (!(delta > 0)) fail("huber_loss", fmt::format("delta {} is not positive", delta), where);
  const auto huber = [delta](auto a, auto b) {
    const auto d = abs(a - b);
    return unroll::simd::where(d < delta, d * d * 0.5, (d - 0.5 * delta) * delta);
  };
  return reduced(pointwise(PointwiseName("huber_loss", where), huber, x, y), options.reduction,
                 where);
}

Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& y,
                                        const BinaryCrossEntropyOptions& options, Where where) {
  check_equal("binary_cross_entropy_with_logits", x, y, where);
  const PointwiseName name("binary_cross_entropy_with_logits", where);
  const Tensor losses = options.pos_weight.defined()
                            ? pointwise(
                                  name,
                                  [](auto a, auto b, auto w) {
                                    return (1.0 - b) * a + (1.0 + (w - 1.0) * b) * softplus(-a);
                                  },
                                  x, y, options.pos_weight)
                            : pointwise(
                                  name, [](auto a, auto b) { return softplus(a) - a * b; }, x, y);
  if (losses.shape() != x.shape())
    fail_shape_at(name.text,
                  fmt::format("pos_weight {} does not broadcast to x {}",
                              to_string(options.pos_weight.shape()), to_string(x.shape())),
                  where);
  return reduced(losses, options.reduction, where);
}

namespace {

using In = std::span<const Tensor>;

// y is a constant here, so that it may be 0 or 1; gradients flow to it too.
Tensor labels(const Shape& shape) {
  Generator g(4);
  return greater(g.uniform(shape, 0, 1, DType::f64), 0.5);
}

const RegisterOp mse_row{{
    .name = "mse_loss",
    .signature = "mse_loss(x, y, {.reduction})",
    .summary = "(x - y)^2",
    .samples = {normal_sample({{3, 5}, {3, 5}}, [](In in) { return mse_loss(in[0], in[1]); }),
                normal_sample(
                    {{7}, {7}},
                    [](In in) { return mse_loss(in[0], in[1], {.reduction = Reduction::sum}); }),
                normal_sample(
                    {{2, 3, 2}, {2, 3, 2}},
                    [](In in) { return mse_loss(in[0], in[1], {.reduction = Reduction::none}); })},
    .wrong = {[] {
      mse_loss(Tensor::zeros({3, 1}), Tensor::zeros({3}));
    }},
}};

const RegisterOp l1_row{{
    .name = "l1_loss",
    .signature = "l1_loss(x, y, {.reduction})",
    .summary = "|x - y|",
    .samples = {normal_sample({{3, 5}, {3, 5}}, [](In in) { return l1_loss(in[0], in[1]); }),
                normal_sample(
                    {{7}, {7}},
                    [](In in) { return l1_loss(in[0], in[1], {.reduction = Reduction::sum}); })},
    .wrong = {[] {
      l1_loss(Tensor::zeros({3, 1}), Tensor::zeros({3}));
    }},
}};

const RegisterOp huber_row{{
    .name = "huber_loss",
    .signature = "huber_loss(x, y, {.delta = 1, .reduction})",
    .summary = "Quadratic near 0, linear beyond delta",
    .samples = {normal_sample({{3, 5}, {3, 5}}, [](In in) { return huber_loss(in[0], in[1]); }),
                normal_sample({{7}, {7}},
                              [](In in) {
                                return huber_loss(in[0], in[1],
                                                  {.delta = 0.4, .reduction = Reduction::none});
                              })},
    .wrong = {[] {
      huber_loss(Tensor::zeros({3, 1}), Tensor::zeros({3}));
    }},
}};

const RegisterOp bce_row{{
    .name = "binary_cross_entropy_with_logits",
    .signature = "binary_cross_entropy_with_logits(x, y, {.pos_weight, .reduction})",
    .summary = "Cross entropy of sigmoid(x) and y",
    .samples = {normal_sample({{3, 5}, {3, 5}},
                              [](In in) { return binary_cross_entropy_with_logits(in[0], in[1]); }),
                normal_sample({{2, 3, 2}},
                              [](In in) {
                                return binary_cross_entropy_with_logits(
                                    in[0], labels({2, 3, 2}).to(in[0].dtype()),
                                    {.reduction = Reduction::sum});
                              }),
                normal_sample({{4, 3}, {4, 3}, {3}},
                              [](In in) {
                                return binary_cross_entropy_with_logits(
                                    in[0], in[1],
                                    {.pos_weight = square(in[2]), .reduction = Reduction::none});
                              })},
    .wrong = {[] {
                binary_cross_entropy_with_logits(Tensor::zeros({3, 1}), Tensor::zeros({3}));
              },
              [] {
                binary_cross_entropy_with_logits(Tensor::zeros({3}), Tensor::zeros({3}),
                                                 {.pos_weight = Tensor::zeros({2, 3})});
              }},
}};

}  // namespace
}  // namespace unroll
