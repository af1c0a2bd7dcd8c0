// A bidirectional LSTM finds parts of speech. In this toy language "light" is an adjective, a noun
// or a verb: which one, only the words on both sides tell. Sentences differ in length; lengths and
// ignore_index keep the padding out of states and loss.
#include <unroll/unroll.h>

#include <cstdio>
#include <cstring>
#include <tuple>

using namespace unroll;

enum Word : std::int64_t { the, cat, light, red, sees, also, words };
enum Tag : std::int64_t { determiner, adjective, noun, verb, conjunction, tags };
constexpr std::int64_t padding = -100;
using Sentence = std::vector<std::pair<std::int64_t, std::int64_t>>;  // words with their tags

Sentence draw_sentence(Generator& g) {
  Sentence s;
  const auto noun_phrase = [&] {
    s.emplace_back(the, determiner);
    if (g.below(2) == 0) s.emplace_back(g.below(2) == 0 ? red : light, adjective);
    s.emplace_back(g.below(2) == 0 ? cat : light, noun);
  };
  do {
    if (!s.empty()) s.emplace_back(also, conjunction);
    noun_phrase();
    s.emplace_back(g.below(2) == 0 ? sees : light, verb);
    noun_phrase();
  } while (g.below(2) == 0 && s.size() < 24);
  return s;
}

struct Sentences {
  Tensor words, tags, lengths;  ///< [T, B], [T, B], [B]
};

Sentences draw(Generator& g, std::int64_t batch) {
  const Shape shape{32, batch};
  Tensor x = Tensor::zeros(shape, DType::i64), y = Tensor::full(shape, padding, DType::i64);
  Tensor lengths = Tensor::zeros({batch}, DType::i64);
  for (std::int64_t b = 0; b < batch; ++b) {
    const Sentence s = draw_sentence(g);
    lengths.mutable_ptr<std::int64_t>()[b] = static_cast<std::int64_t>(s.size());
    for (std::int64_t t = 0; t < std::ssize(s); ++t)
      std::tie(x.mutable_ptr<std::int64_t>()[t * batch + b],
               y.mutable_ptr<std::int64_t>()[t * batch + b]) = s[static_cast<std::size_t>(t)];
  }
  return {x, y, lengths};
}

struct Tagger : Module {
  Embedding embed;
  LSTM lstm;
  Linear head;
  explicit Tagger(Generator& g)
      : embed(words, 16, g),
        lstm({.input_size = 16, .hidden_size = 32, .bidirectional = true}, g),
        head(64, tags, g) {
    add("embed", embed);
    add("lstm", lstm);
    add("head", head);
  }
  Tensor operator()(const Sentences& s) const {
    return head(lstm(embed(s.words), RecurrentCall{.lengths = s.lengths}).output);
  }
};

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  Generator g(1);
  Tagger model(g);
  Adam adam(model.parameters(), {.learning_rate = 1e-2});
  const int steps = quick ? 150 : 600;
  for (int step = 1; step <= steps; ++step) {
    const Sentences batch = draw(g, 32);
    Tape tape;
    const Tensor loss = cross_entropy(model(batch), batch.tags, {.ignore_index = padding});
    tape.backward(loss);
    adam.step();
    adam.zero_grad();
    if (step % (steps / 5) == 0) std::printf("step %3d  loss %.4f\n", step, loss.item());
  }
  const Sentences test = draw(g, 200);
  const Tensor found = argmax(model(test));
  const double right = sum(equal(found.to(DType::f32), test.tags.to(DType::f32))).item();
  const double count = sum(test.lengths.to(DType::f32)).item();
  std::printf("%.0f of %.0f words tagged right\n", right, count);
  return right > 0.98 * count ? 0 : 1;
}
