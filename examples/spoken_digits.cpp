// Spoken digits: log-mel features, a GRU, and key-word spotting in a running recording.
//
//     spoken_digits [--quick] [--at-least PERCENT] [FOLDER]
//
// FOLDER (default: fsdd in $UNROLL_DATA) holds the Free Spoken Digit Dataset's {digit}_{speaker}_
// {index}.wav; as there, index 0 to 4 is the test part. The network names at every frame what has
// just been said, one of ten digits or nothing. It is trained on digits strung together, slower,
// faster, louder, softer and noisier than they were recorded, and listens step by step with its
// state carried on. It ends with 1 where less of the test part is right than --at-least.
#include <unroll/unroll.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>

using namespace unroll;
using Samples = std::vector<float>;

constexpr std::int64_t digits = 10, nothing = 10, ignored = -100, rate = 8000;
constexpr LogMelOptions features{.rate = rate};
// A digit is to be named from shortly before its end on, for 16 frames.
constexpr std::int64_t early = rate / 25, late = rate * 3 / 25;

struct Spoken {
  Samples samples;
  std::int64_t digit = 0;
};
struct Part {
  std::vector<Spoken> train, test;
};

Part load(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".wav") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  Part part;
  for (const auto& file : files) {
    const std::string name = file.stem().string();
    const std::size_t index = name.rfind('_');
    if (index == std::string::npos || name[0] < '0' || name[0] > '9') continue;
    Recording recording = read_audio(file);
    if (recording.rate != rate) throw DataError(name + ": 8000 samples a second are expected");
    const bool test = std::atoi(name.c_str() + index + 1) < 5;
    (test ? part.test : part.train).push_back({std::move(recording.samples), name[0] - '0'});
  }
  if (part.train.empty() || part.test.empty())
    throw DataError(folder.string() + " holds no {digit}_{speaker}_{index}.wav of both parts");
  return part;
}

// Digits in a row, and where each begins and ends.
struct Passage {
  Samples samples;
  struct Word {
    std::int64_t begin, end, digit;
  };
  std::vector<Word> words;

  void add_silence(std::int64_t count) {
    samples.insert(samples.end(), static_cast<std::size_t>(count), 0.f);
  }
  void add_word(const Samples& word, std::int64_t digit) {
    words.push_back({std::ssize(samples), std::ssize(samples) + std::ssize(word), digit});
    samples.insert(samples.end(), word.begin(), word.end());
  }
  void add_noise(double level, Generator& g) {
    for (float& one : samples) one += static_cast<float>(level * g.normal());
  }
  // What to say at each frame, [T]. A frame knows what was heard up to its own end.
  std::vector<std::int64_t> targets(std::int64_t frames) const {
    std::vector<std::int64_t> result(static_cast<std::size_t>(frames), nothing);
    for (const Word& word : words)
      for (std::int64_t t = 0; t < frames; ++t) {
        const std::int64_t now = t * features.hop + features.window;
        if (now > word.end - early && now <= word.end + late)
          result[static_cast<std::size_t>(t)] = word.digit;
        else if (now > (word.begin + word.end) / 2 && now <= word.end)
          result[static_cast<std::size_t>(t)] = ignored;  // it may be clear already, or not
      }
    return result;
  }
};

// The word read `speed` times as fast, its samples between those of the recording.
Samples changed(const Samples& word, double speed, double gain) {
  Samples result(static_cast<std::size_t>(static_cast<double>(word.size()) / speed));
  for (std::size_t i = 0; i < result.size(); ++i) {
    const double place = static_cast<double>(i) * speed;
    const auto left = std::min(static_cast<std::size_t>(place), word.size() - 1);
    const std::size_t right = std::min(left + 1, word.size() - 1);
    const auto share = static_cast<float>(place - static_cast<double>(left));
    result[i] = static_cast<float>(gain) * ((1 - share) * word[left] + share * word[right]);
  }
  return result;
}

std::int64_t pause(double least, double most, Generator& g) {
  return static_cast<std::int64_t>(rate * (least + (most - least) * g.uniform()));
}

struct Listener : Module {
  LogMel mel{features};
  Scaler scaler;  // of the training part's features
  GRU gru;
  Linear head;
  explicit Listener(Generator& g, double dropout = 0.3)
      : gru({.input_size = features.bands, .hidden_size = 96, .num_layers = 2, .dropout = dropout},
            g),
        head(96, digits + 1, g) {
    add("gru", gru);
    add("head", head);
  }
  Tensor hear(const Samples& samples) { return scaler.apply(mel(samples)); }
  Output operator()(const Tensor& x, const State& state = {}) const {
    Output result = gru(x, {.state = state});
    result.output = head(result.output);
    return result;
  }
};

Tensor train_loss(Listener& model, const std::vector<Spoken>& words,
                  std::span<const std::int64_t> batch, Generator& g) {
  constexpr std::size_t in_a_row = 3;
  std::vector<Tensor> heard;
  std::vector<std::vector<std::int64_t>> said;
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < batch.size(); i += in_a_row) {
    Passage passage;
    passage.add_silence(pause(0.05, 0.4, g));
    for (std::size_t k = i; k < std::min(i + in_a_row, batch.size()); ++k) {
      const Spoken& word = words[static_cast<std::size_t>(batch[k])];
      const double speed = 0.85 + 0.3 * g.uniform(), gain = std::exp(1.6 * g.uniform() - 1.0);
      passage.add_word(changed(word.samples, speed, gain), word.digit);
      passage.add_silence(pause(0.15, 0.6, g));
    }
    passage.add_noise(std::pow(10, -4 + 2.3 * g.uniform()), g);
    heard.push_back(model.hear(passage.samples));
    said.push_back(passage.targets(heard.back().size(0)));
    longest = std::max(longest, heard.back().size(0));
  }
  // A causal network is not touched by what pads the others' ends; the loss leaves it out.
  const std::int64_t sequences = std::ssize(heard);
  Tensor x = Tensor::zeros({longest, sequences, features.bands});
  Tensor y = Tensor::full({longest, sequences}, ignored, DType::i64);
  for (std::int64_t b = 0; b < sequences; ++b) {
    const Tensor& one = heard[static_cast<std::size_t>(b)];
    for (std::int64_t t = 0; t < one.size(0); ++t) {
      std::copy_n(one.ptr<float>() + t * features.bands, features.bands,
                  x.mutable_ptr<float>() + (t * sequences + b) * features.bands);
      y.mutable_ptr<std::int64_t>()[t * sequences + b] =
          said[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];
    }
  }
  return cross_entropy(model(x).output, y, {.ignore_index = ignored});
}

// Of single recordings: which digit is the likeliest in the frames in which it is to be named?
double accuracy(Listener& model, const std::vector<Spoken>& words) {
  std::int64_t right = 0;
  Generator g(5);
  for (const Spoken& word : words) {
    Passage passage;
    passage.add_silence(rate / 10);
    passage.add_word(word.samples, word.digit);
    passage.add_silence(late + features.window);
    passage.add_noise(1e-3, g);
    const Tensor heard = model.hear(passage.samples);
    const Tensor scores = log_softmax(model(unsqueeze(heard, 1)).output);
    const auto asked = passage.targets(heard.size(0));
    std::array<double, digits> sums{};
    for (std::size_t t = 0; t < asked.size(); ++t)
      if (asked[t] == word.digit)
        for (std::size_t d = 0; d < sums.size(); ++d)
          sums[d] += static_cast<double>(scores.ptr<float>()[t * (digits + 1) + d]);
    right += std::max_element(sums.begin(), sums.end()) - sums.begin() == word.digit;
  }
  return static_cast<double>(right) / static_cast<double>(words.size());
}

// Frame by frame, as from a microphone: each is computed from its own samples, and what the network
// knows of earlier ones is its state. A digit is reported once its smoothed probability passes
// 0.65; the next may be when that of nothing has passed 0.5.
void listen(Listener& model, const Passage& passage) {
  State state;
  std::array<float, features.bands> bands{};
  std::array<double, digits + 1> smooth{};
  bool armed = true;
  std::size_t found = 0, wrong = 0;
  std::vector<bool> heard(passage.words.size());
  for (std::int64_t at = 0; at + features.window <= std::ssize(passage.samples);
       at += features.hop) {
    model.mel.frame(
        std::span(passage.samples).subspan(static_cast<std::size_t>(at), features.window), bands);
    const Tensor x = model.scaler.apply(Tensor::from(std::span<const float>(bands), {1, 1, 40}));
    auto [output, next] = model(x, state);
    state = next;
    const Tensor now = softmax(output);
    for (std::size_t d = 0; d < smooth.size(); ++d)
      smooth[d] = 0.75 * smooth[d] + 0.25 * static_cast<double>(now.ptr<float>()[d]);
    const auto likeliest = std::max_element(smooth.begin(), smooth.end()) - smooth.begin();
    if (smooth[nothing] > 0.5) armed = true;
    if (!armed || likeliest == nothing || smooth[static_cast<std::size_t>(likeliest)] < 0.65)
      continue;
    armed = false;
    const std::int64_t heard_at = at + features.window;
    const auto word =
        std::find_if(passage.words.begin(), passage.words.end(), [&](const Passage::Word& one) {
          return one.begin < heard_at && heard_at <= one.end + rate / 4;
        });
    const bool right = word != passage.words.end() && word->digit == likeliest &&
                       !heard[static_cast<std::size_t>(word - passage.words.begin())];
    std::printf("  %6.2f s  %td", static_cast<double>(heard_at) / rate, likeliest);
    if (right) {
      heard[static_cast<std::size_t>(word - passage.words.begin())] = true;
      std::printf("  (said until %.2f s)\n", static_cast<double>(word->end) / rate);
      ++found;
    } else {
      std::printf("  wrong: %s\n", word == passage.words.end()
                                       ? "nothing was said"
                                       : ("said was " + std::to_string(word->digit)).c_str());
      ++wrong;
    }
  }
  std::printf("  %zu of %zu digits found, %zu wrong detections\n", found, heard.size(), wrong);
}

int main(int argc, char** argv) try {
  bool quick = false;
  std::optional<double> at_least;
  std::string folder;
  CLI::App app("Learns spoken digits, then listens");
  app.add_flag("--quick", quick, "Few epochs, as a test");
  app.add_option("--at-least", at_least, "Percent of the test part to be right")
      ->check(CLI::Range(0., 100.));
  app.add_option("FOLDER", folder, "Of the recordings (default: fsdd in $UNROLL_DATA)")
      ->check(CLI::ExistingDirectory);
  CLI11_PARSE(app, argc, argv);
  const char* data = std::getenv("UNROLL_DATA");
  if (folder.empty() && data != nullptr) folder = (std::filesystem::path(data) / "fsdd").string();
  if (!std::filesystem::is_directory(folder)) {
    std::printf("skipped: give the folder of the recordings, or fsdd in $UNROLL_DATA\n");
    return 0;
  }
  const Part part = load(folder);
  std::printf("%zu recordings to train, %zu to test\n", part.train.size(), part.test.size());

  Generator g(1);
  Listener model(g);
  std::vector<Tensor> all;
  for (const Spoken& word : part.train) all.push_back(model.mel(word.samples));
  const Tensor rows = concat(all);
  model.scaler = standardize(rows, rows.size(0)).second;
  Adam adam(model.parameters());
  const EpochTask task{.examples = std::ssize(part.train),
                       .loss = [&](std::span<const std::int64_t> batch) {
                         return train_loss(model, part.train, batch, g);
                       }};
  const EpochResult result = train_epochs(model, adam, task, g,
                                          {.epochs = quick ? 12 : 60,
                                           .batch = quick ? 24 : 48,
                                           .learning_rate = 4e-3,
                                           .warmup = 0.1,
                                           .clip_norm = 1});
  const double right = accuracy(model, part.test);
  std::printf("GRU, %lld parameters, %.0f s of training: %.2f %% of the test part right\n",
              static_cast<long long>(model.parameter_count()), result.seconds, 100 * right);

  Passage passage;
  for (int i = 0; i < 20; ++i) {
    passage.add_silence(pause(0.3, 0.8, g));
    const Spoken& word = part.test[static_cast<std::size_t>(g.below(std::ssize(part.test)))];
    passage.add_word(word.samples, word.digit);
  }
  passage.add_silence(rate);
  passage.add_noise(1e-3, g);
  std::printf("listening to %.1f s, 20 digits of the test part:\n",
              static_cast<double>(passage.samples.size()) / rate);
  listen(model, passage);
  return 100 * right >= at_least.value_or(quick ? 60 : 0) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
