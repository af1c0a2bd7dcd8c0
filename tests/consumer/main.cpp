// What a program that uses an installed Unroll does: its own op, its own cell, a model of both,
// training, saving and loading.
#include <unroll/unroll.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

using namespace unroll;

Tensor soft_sign(const Tensor& x) {
  return pointwise(
      "soft_sign", [](auto x) { return x / (1.0 + abs(x)); }, x);
}

class SoftSignCell : public RecurrentCell {
 public:
  Linear input, hidden;

  SoftSignCell(std::int64_t inputs, std::int64_t size, Generator& generator)
      : input(inputs, size, generator), hidden(size, size, generator), size_(size) {
    add("input", input);
    add("hidden", hidden);
  }
  Output operator()(const Tensor& x, const State& state) const override {
    const Tensor h = soft_sign(input(x) + hidden(state[0]));
    return {h, {h}};
  }
  State initial_state(std::int64_t batch, DType dtype) const override {
    return {Tensor::zeros({batch, size_}, dtype)};
  }
  std::int64_t output_size() const override { return size_; }

 private:
  std::int64_t size_;
};

struct Model : Module {
  SoftSignCell cell;
  Linear head;

  explicit Model(Generator& generator) : cell(3, 16, generator), head(16, 1, generator) {
    add("cell", cell);
    add("head", head);
  }
  Tensor operator()(const Tensor& x) const {
    return head(scan(std::cref(cell), x, cell.initial_state(x.size(1), x.dtype())).output);
  }
};

bool check(bool holds, const char* what) {
  if (!holds) std::fprintf(stderr, "consumer: %s\n", what);
  return holds;
}

int main() {
  Generator generator(1);
  Model model(generator);
  Adam adam(model.parameters(), {.learning_rate = 1e-2});
  const Tensor x = generator.normal({10, 8, 3}, 0, 1);
  const Tensor y = mean(x, {2}, true);
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    Tape tape;
    const Tensor loss = mse_loss(model(x), y);
    tape.backward(loss);
    adam.step();
    adam.zero_grad();
    last = loss.item();
    if (step == 0) first = last;
  }
  bool good = check(last < 0.2 * first, "training does not lower the loss");

  const auto file = std::filesystem::current_path() / "consumer.safetensors";
  save_safetensors(file, model.state_dict());
  Model loaded(generator);
  const Tensor wanted = model(x);
  const auto same = [&] {
    const Tensor got = loaded(x);
    return std::ranges::equal(got.data<float>(), wanted.data<float>());
  };
  good &= check(!same(), "a fresh model equals the trained one");
  loaded.load_state_dict(load_safetensors(file));
  good &= check(same(), "the loaded model differs from the saved one");
  std::filesystem::remove(file);

  const Tensor z = generator.normal({4, 5}, 0, 1, DType::f64);
  const std::vector<std::size_t> wrt = {0};
  const double error = gradient_error(
      [](std::span<const Tensor> in) { return std::vector{soft_sign(in[0])}; }, {&z, 1}, wrt);
  good &= check(error < 1e-6, "the gradient of the op is wrong");
  return good ? 0 : 1;
}
