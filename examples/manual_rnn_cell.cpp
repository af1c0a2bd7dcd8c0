// A recurrent cell written by hand, two Linears and a tanh, run over time by scan(). It learns to
// remember: the first symbol of a sequence is asked for after noise of other symbols.
//
//     manual_rnn_cell [--quick]
#include <unroll/unroll.h>

#include <CLI/CLI.hpp>
#include <cstdio>

using namespace unroll;

struct ManualRNNCell : Module {
  Linear input, hidden;

  ManualRNNCell(std::int64_t inputs, std::int64_t size, Generator& generator)
      : input(inputs, size, generator), hidden(size, size, generator) {
    add("input", input);
    add("hidden", hidden);
  }
  Output operator()(const Tensor& x, const State& state) const {
    const Tensor h = tanh(input(x) + hidden(state[0]));
    return {h, {h}};
  }
};

struct Rememberer : Module {
  ManualRNNCell cell;
  Linear head;

  Rememberer(std::int64_t symbols, std::int64_t size, Generator& generator)
      : cell(symbols, size, generator), head(size, symbols, generator) {
    add("cell", cell);
    add("head", head);
  }
  /// Tokens [T, B] -> logits [B, symbols] for the first of each.
  Tensor operator()(const Tensor& tokens) const {
    const std::int64_t size = head.weight.shape()[1];
    const State start = {Tensor::zeros({tokens.size(1), size})};
    return head(scan(std::cref(cell), one_hot(tokens, head.weight.shape()[0]), start).state[0]);
  }
};

int main(int argc, char** argv) {
  bool quick = false;
  CLI::App app("A recurrent cell written by hand");
  app.add_flag("--quick", quick, "Fewer steps");
  CLI11_PARSE(app, argc, argv);
  constexpr std::int64_t symbols = 4, batch = 64, length = 8;
  const int steps = quick ? 400 : 2000;

  Generator generator(1);
  Rememberer model(symbols, 32, generator);
  Adam adam(model.parameters(), {.learning_rate = 3e-3});
  std::printf("%s\n", model.summary().c_str());

  const auto draw = [&] {
    Tensor tokens = Tensor::empty({length, batch}, DType::i64);
    for (std::int64_t& token : tokens.mutable_data<std::int64_t>())
      token = generator.below(symbols);
    return tokens;
  };

  for (int step = 1; step <= steps; ++step) {
    const Tensor tokens = draw();
    Tape tape;
    const Tensor loss = cross_entropy(model(tokens), tokens.row(0));
    tape.backward(loss);
    adam.step({.clip_norm = 1});
    adam.zero_grad();
    if (step % (steps / 5) == 0) std::printf("step %4d  loss %.4f\n", step, loss.item());
  }

  const Tensor tokens = draw();
  const Tensor hits = equal(argmax(model(tokens)).to(DType::f32), tokens.row(0).to(DType::f32));
  const double right = sum(hits).item();
  std::printf("first of %lld symbols remembered in %.0f of %lld new sequences\n",
              static_cast<long long>(length), right, static_cast<long long>(batch));
  return right > 0.95 * batch ? 0 : 1;
}
