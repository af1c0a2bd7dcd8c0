// Two ops that the library does not have: swish with a learned slope, as a pointwise lambda whose
// gradient is derived, and a running sum with a gradient written by hand. Both are checked against
// finite differences, then together they find the slope and scale behind some data.
//
//     custom_op [--quick]
#include <unroll/unroll.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>

using namespace unroll;

Tensor swish(const Tensor& x, const Tensor& beta) {
  return pointwise(
      "swish", [](auto x, auto beta) { return x * sigmoid(beta * x); }, x, beta);
}

template <class T>
void running_sum_of(const Tensor& x, Tensor& y) {
  const std::size_t width = static_cast<std::size_t>(x.size(-1));
  const auto from = x.data<T>();
  const auto to = y.mutable_data<T>();
  for (std::size_t i = 0; i < from.size(); ++i)
    to[i] = from[i] + (i % width == 0 ? T(0) : to[i - 1]);
}

/// Sums of the elements so far along the last axis.
Tensor running_sum(const Tensor& x) {
  return custom_op(
      "running_sum", {x},
      [](std::span<const Tensor> in) {
        Tensor y = Tensor::empty(in[0].shape(), in[0].dtype());
        in[0].dtype() == DType::f32 ? running_sum_of<float>(in[0], y)
                                    : running_sum_of<double>(in[0], y);
        return y;
      },
      // Element i went into the sums i, i + 1, ...: the running sum of the gradient from behind.
      [](std::span<const Tensor>, std::span<const Tensor>, std::span<const Tensor> grads) {
        return Tensors{flip(running_sum(flip(grads[0], -1)), -1)};
      });
}

int main(int argc, char** argv) {
  bool quick = false;
  CLI::App app("Two ops that the library does not have");
  app.add_flag("--quick", quick, "Fewer steps");
  CLI11_PARSE(app, argc, argv);
  Generator generator(1);

  const TensorFunction model_of_inputs = [](std::span<const Tensor> in) -> Tensors {
    return {running_sum(swish(in[0], in[1]))};
  };
  const Tensors at = {generator.normal({3, 5}, 0, 1, DType::f64),
                      Tensor::full({}, 1.3, DType::f64)};
  const std::vector<std::size_t> both = {0, 1};
  const double error = gradient_error(model_of_inputs, at, both);
  const double second = gradient_error(gradient_of(model_of_inputs, both), at, both);
  std::printf("gradient error %.1e, of the second derivative %.1e\n", error, second);

  const Parameter beta(Tensor::full({}, 1)), scale(Tensor::full({}, 1));
  constexpr double true_beta = 2.5, true_scale = 0.7;
  Adam adam(std::vector{beta, scale}, {.learning_rate = 1e-2});
  const int steps = quick ? 1000 : 3000;
  for (int step = 1; step <= steps; ++step) {
    const Tensor x = generator.normal({16, 10}, 0, 1);
    const Tensor y = running_sum(swish(x, Tensor::full({}, true_beta)) * true_scale);
    Tape tape;
    const Tensor loss = mse_loss(running_sum(swish(x, beta) * scale), y);
    tape.backward(loss);
    adam.step();
    adam.zero_grad();
    if (step % (steps / 5) == 0)
      std::printf("step %4d  loss %.2e  beta %.3f  scale %.3f\n", step, loss.item(),
                  beta.value().item(), scale.value().item());
  }
  const bool learned = std::abs(beta.value().item() - true_beta) < 0.05 &&
                       std::abs(scale.value().item() - true_scale) < 0.05;
  return error < 1e-6 && second < 1e-6 && learned ? 0 : 1;
}
