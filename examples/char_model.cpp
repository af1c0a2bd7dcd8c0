// A character model: learns a text, is saved, loaded again, and goes on by itself.
//
//     char_model [--quick] [--text FILE]
//
// FILE is a UTF-8 text; without one it learns a nursery rhyme.
#include <unroll/unroll.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>

using namespace unroll;

constexpr const char* rhyme = R"(This is the house that Jack built.
This is the malt that lay in the house that Jack built.
This is the rat that ate the malt that lay in the house that Jack built.
This is the cat that killed the rat that ate the malt that lay in the house that Jack built.
This is the dog that worried the cat that killed the rat that ate the malt that lay in the house
that Jack built.
)";

void build(Sequential& model, std::int64_t symbols, Generator& generator) {
  model.append<Embedding>(symbols, 32, generator)
      .append<LSTM>(LSTMOptions{.input_size = 32, .hidden_size = 96, .forget_bias = 1}, generator)
      .append<Linear>(96, symbols, generator);
}

/// Draws `count` symbols, each given to the model as its next input.
std::vector<std::int64_t> generate(const Sequential& model, std::int64_t first, int count,
                                   Generator generator) {
  std::vector<std::int64_t> text = {first};
  State state;
  while (static_cast<int>(text.size()) < count) {
    Output step = model(Tensor::from({text.back()}, {1, 1}), state);
    state = std::move(step.state);
    const Tensor probabilities = softmax(step.output, {.scale = 2});  // cooler: fewer slips
    double left = generator.uniform();
    std::int64_t symbol = -1;
    for (float p : probabilities.data<float>()) {
      ++symbol;
      if ((left -= p) < 0) break;
    }
    text.push_back(symbol);
  }
  return text;
}

int main(int argc, char** argv) try {
  bool quick = false;
  std::string file_of_text;
  CLI::App app("Learns a text by its characters, and goes on by itself");
  app.add_flag("--quick", quick, "Fewer steps");
  app.add_option("--text", file_of_text, "UTF-8 (default: a nursery rhyme)");
  CLI11_PARSE(app, argc, argv);
  const std::string text = file_of_text.empty() ? rhyme : read_text(file_of_text);
  const Vocabulary vocabulary = Vocabulary::characters(text);
  const std::vector<std::int64_t> tokens = vocabulary.encode(text);
  Generator generator(1);
  Sequential model;
  build(model, vocabulary.size(), generator);
  Adam adam(model.parameters(), {.learning_rate = 5e-3});

  ContiguousWindows windows(tokens, 4, 16);
  State state;
  double loss_value = 0;
  const int steps = quick ? 400 : 2000;
  for (int step = 1; step <= steps; ++step) {
    if (windows.at_start()) state.clear();
    const auto [x, y] = windows.next();
    // The state comes from a tape that has ended: its values go on, gradients stop here.
    Tape tape;
    auto [logits, next] = model(x, state);
    const Tensor loss = cross_entropy(logits, y);
    tape.backward(loss);
    adam.step({.clip_norm = 1});
    adam.zero_grad();
    state = std::move(next);
    loss_value = loss.item();
    if (step % (steps / 5) == 0) std::printf("step %4d  loss %.3f\n", step, loss_value);
  }

  const auto file = std::filesystem::temp_directory_path() / "unroll_char_model.safetensors";
  save_safetensors(file, model.state_dict(), {{"vocabulary", vocabulary.to_json()}});
  Sequential loaded;
  build(loaded, vocabulary.size(), generator);
  loaded.load_state_dict(load_safetensors(file));
  std::filesystem::remove(file);
  const auto written = generate(loaded, tokens[0], 200, Generator(2));
  std::printf("\n%s\n", vocabulary.decode(written).c_str());
  const bool same = written == generate(model, tokens[0], 200, Generator(2));
  // The rhyme is learned by heart; of another text nothing is promised.
  const bool learned = loss_value < 0.5 * std::log(static_cast<double>(vocabulary.size()));
  return same && (learned || !file_of_text.empty()) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
