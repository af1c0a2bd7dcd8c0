// Parts of speech: words, and the characters that they are made of, read in both
// directions.
//
//     part_of_speech [--quick] [--model lstm|gru|transformer] [--epochs N]
//                    [--learning-rate R] [--at-least PERCENT] [FOLDER]
//
// FOLDER (default: ud_english_ewt in $UNROLL_DATA) is a treebank of Universal Dependencies, of any
// language: ...train.conllu, ...dev.conllu and ...test.conllu; or train.tsv, dev.tsv and test.tsv
// with a word, a tab and its tag a line, and a blank line behind every sentence. dev chooses the
// epoch; test is looked at once, at the end. It ends with 1 where less is right than --at-least.
#include <unroll/unroll.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <string>

using namespace unroll;

constexpr std::int64_t padding = -100;
constexpr std::int64_t unknown = 0;  // index of words and characters that training has not seen
using Index = std::map<std::string, std::int64_t>;

std::vector<TaggedSentence> load(const std::filesystem::path& folder, const std::string& part) {
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    const std::string name = file.path().filename().string();
    if (name == part + ".tsv") return read_tagged_text(file.path());
    if (name.ends_with(part + ".conllu")) return read_tagged_text(file.path(), conllu);
  }
  throw DataError(folder.string() + ": neither ..." + part + ".conllu nor " + part + ".tsv");
}

struct Vocabularies {
  Index words, characters, tags;  ///< of words and characters, 0 stands for all others
};

std::int64_t find(const Index& index, const std::string& name, std::int64_t otherwise) {
  const auto place = index.find(name);
  return place == index.end() ? otherwise : place->second;
}

std::vector<std::string> characters_of(const std::string& word) {
  std::vector<std::string> result;
  for (const char32_t c : decode_utf8(word)) result.push_back(encode_utf8(c));
  return result;
}

Vocabularies count(const std::vector<TaggedSentence>& sentences) {
  std::map<std::string, int> words, characters;
  Vocabularies v;
  for (const TaggedSentence& sentence : sentences) {
    for (const std::string& word : sentence.words) {
      ++words[word];
      for (const std::string& c : characters_of(word)) ++characters[c];
    }
    for (const std::string& tag : sentence.tags) v.tags.try_emplace(tag, std::ssize(v.tags));
  }
  for (const auto& [word, times] : words)
    if (times > 1) v.words.try_emplace(word, std::ssize(v.words) + 1);
  for (const auto& [c, times] : characters)
    v.characters.try_emplace(c, std::ssize(v.characters) + 1);
  return v;
}

/// T words at the most, B sentences, U different words among them, L characters at the most.
struct Input {
  Tensor words;                   ///< [T, B] i64
  Tensor lengths;                 ///< [B] i64
  Tensor tags;                    ///< [T, B] i64, padding where there is none
  Tensor spelled;                 ///< [T, B] i64: which of the U
  Tensor characters = {};         ///< [L, U] i64
  Tensor character_lengths = {};  ///< [U] i64
};

// Every different word is spelled once, however often it occurs.
Input gather(const std::vector<TaggedSentence>& sentences, std::span<const std::int64_t> which,
             const Vocabularies& v) {
  const std::int64_t batch = std::ssize(which);
  std::int64_t steps = 0, longest = 0;
  std::map<std::string, std::int64_t> spelling;
  std::vector<std::vector<std::int64_t>> letters;
  const auto spell = [&](const std::string& word) {
    const auto [place, fresh] = spelling.try_emplace(word, std::ssize(letters));
    if (fresh) {
      letters.emplace_back();
      for (const std::string& c : characters_of(word))
        letters.back().push_back(find(v.characters, c, unknown));
      longest = std::max<std::int64_t>(longest, std::ssize(letters.back()));
    }
    return place->second;
  };
  for (const std::int64_t i : which)
    steps = std::max<std::int64_t>(steps, std::ssize(sentences[static_cast<std::size_t>(i)].words));
  Input in{.words = Tensor::zeros({steps, batch}, DType::i64),
           .lengths = Tensor::zeros({batch}, DType::i64),
           .tags = Tensor::full({steps, batch}, padding, DType::i64),
           .spelled = Tensor::zeros({steps, batch}, DType::i64)};
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto& [words, tags] = sentences[static_cast<std::size_t>(which[b])];
    in.lengths.mutable_ptr<std::int64_t>()[b] = std::ssize(words);
    for (std::int64_t t = 0; t < std::ssize(words); ++t) {
      const std::string& word = words[static_cast<std::size_t>(t)];
      const std::int64_t at = t * batch + b;
      in.words.mutable_ptr<std::int64_t>()[at] = find(v.words, word, unknown);
      in.spelled.mutable_ptr<std::int64_t>()[at] = spell(word);
      in.tags.mutable_ptr<std::int64_t>()[at] =
          find(v.tags, tags[static_cast<std::size_t>(t)], padding);
    }
  }
  const std::int64_t different = std::ssize(letters);
  in.characters = Tensor::zeros({longest, different}, DType::i64);
  in.character_lengths = Tensor::zeros({different}, DType::i64);
  for (std::int64_t u = 0; u < different; ++u) {
    const auto& word = letters[static_cast<std::size_t>(u)];
    in.character_lengths.mutable_ptr<std::int64_t>()[u] = std::ssize(word);
    for (std::int64_t l = 0; l < std::ssize(word); ++l)
      in.characters.mutable_ptr<std::int64_t>()[l * different + u] =
          word[static_cast<std::size_t>(l)];
  }
  return in;
}

// A word that now and then counts as unknown while training teaches what to make of unknown ones.
void forget_words(Input& in, double share, Generator& g) {
  for (std::int64_t& word : in.words.mutable_data<std::int64_t>())
    if (g.uniform() < share) word = unknown;
}

struct Tagger : Module {
  Embedding words, characters;
  SequenceEncoder spelling;
  Dropout dropout, dropout_out;
  SequenceEncoder encoder;
  Linear head;
  Tagger(const Vocabularies& v, SequenceEncoderOptions body, Generator& g)
      : words(std::ssize(v.words) + 1, 100, g),
        characters(std::ssize(v.characters) + 1, 24, g),
        spelling({.kind = "lstm", .input_size = 24, .hidden_size = 32}, g),
        dropout(0.33, g),
        dropout_out(0.33, g),
        encoder((body.input_size = 100 + spelling.output_size(), body), g),
        head(encoder.output_size(), std::ssize(v.tags), g) {
    add("words", words);
    add("characters", characters);
    add("spelling", spelling);
    add("dropout", dropout);
    add("encoder", encoder);
    add("dropout_out", dropout_out);
    add("head", head);
  }
  Tensor operator()(const Input& in) {
    const Tensor spelled = spelling.summary_of(characters(in.characters), in.character_lengths);
    const Tensor x = concat({words(in.words), embedding(spelled, in.spelled)}, -1);
    return head(dropout_out(encoder(dropout(x), in.lengths)));
  }
};

// Share of all words with a wrong tag; a tag that training has not seen is always wrong.
double error(Tagger& model, const std::vector<TaggedSentence>& sentences, const Vocabularies& v) {
  const NoGrad constant;
  std::int64_t right = 0, all = 0;
  for (std::int64_t begin = 0; begin < std::ssize(sentences); begin += 64) {
    std::vector<std::int64_t> which(
        static_cast<std::size_t>(std::min<std::int64_t>(64, std::ssize(sentences) - begin)));
    std::iota(which.begin(), which.end(), begin);
    const Input in = gather(sentences, which, v);
    const Tensor found = argmax(model(in));
    for (std::int64_t i = 0; i < found.numel(); ++i)
      right += found.ptr<std::int64_t>()[i] == in.tags.ptr<std::int64_t>()[i];
    for (const std::int64_t length : in.lengths.data<std::int64_t>()) all += length;
  }
  return 1 - static_cast<double>(right) / static_cast<double>(all);
}

int main(int argc, char** argv) try {
  bool quick = false;
  std::optional<int> epochs;
  std::optional<double> learning_rate, at_least;
  std::string kind = "lstm", folder;
  CLI::App app("Tags words with their parts of speech");
  app.add_flag("--quick", quick, "A small part of the data, as a test");
  app.add_option("--model", kind)->check(CLI::IsMember({"lstm", "gru", "transformer"}));
  app.add_option("--epochs", epochs)->check(CLI::Range(1, 1'000'000));
  app.add_option("--learning-rate", learning_rate)->check(CLI::PositiveNumber);
  app.add_option("--at-least", at_least, "Percent of the test part to be right")
      ->check(CLI::Range(0., 100.));
  app.add_option("FOLDER", folder, "Of a treebank (default: ud_english_ewt in $UNROLL_DATA)")
      ->check(CLI::ExistingDirectory);
  CLI11_PARSE(app, argc, argv);
  const char* data = std::getenv("UNROLL_DATA");
  if (folder.empty() && data != nullptr)
    folder = (std::filesystem::path(data) / "ud_english_ewt").string();
  if (!std::filesystem::is_directory(folder)) {
    std::printf("skipped: give the folder of a treebank, or ud_english_ewt in $UNROLL_DATA\n");
    return 0;
  }
  std::vector<TaggedSentence> train = load(folder, "train"), dev = load(folder, "dev"),
                              test = load(folder, "test");
  if (quick) {
    train.resize(std::min<std::size_t>(train.size(), 1500));
    dev.resize(std::min<std::size_t>(dev.size(), 200));
    test.resize(std::min<std::size_t>(test.size(), 300));
  }
  const Vocabularies v = count(train);
  Generator g(1);
  SequenceEncoderOptions body{.kind = kind};
  if (kind == "transformer") {
    body.hidden_size = 96;
    body.num_layers = 2;
    body.dropout = 0.1;
  } else {
    body.hidden_size = kind == "gru" ? 136 : 112;
  }
  Tagger model(v, body, g);
  std::printf("%s, %lld parameters, %lld of them above the words; %zu sentences, %zu words known\n",
              kind.c_str(), static_cast<long long>(model.parameter_count()),
              static_cast<long long>(model.encoder.parameter_count()), train.size(),
              v.words.size());
  Adam adam(model.parameters());
  const EpochTask task{
      .examples = std::ssize(train),
      .loss =
          [&](std::span<const std::int64_t> batch) {
            Input in = gather(train, batch, v);
            forget_words(in, 0.1, g);
            return cross_entropy(model(in), in.tags, {.ignore_index = padding});
          },
      .evaluate = [&] { return error(model, dev, v); },
      .length =
          [&](std::int64_t i) { return std::ssize(train[static_cast<std::size_t>(i)].words); }};
  const EpochResult result =
      train_epochs(model, adam, task, g,
                   {.epochs = epochs.value_or(quick ? 4 : 8),
                    .batch = quick ? 16 : 32,
                    .learning_rate = learning_rate.value_or(kind == "transformer" ? 2e-3 : 4e-3),
                    .warmup = 0.05,
                    .clip_norm = 1,
                    .on_epoch = [](const EpochPoint& point) {
                      std::printf("epoch %d: loss %.4f, %.2f %% of dev's words tagged right\n",
                                  point.epoch, point.train_loss, 100 - 100 * point.validation);
                      std::fflush(stdout);
                    }});
  const double right = 1 - error(model, test, v);
  std::printf("%.0f s of training: %.2f %% of the test part's words tagged right\n", result.seconds,
              100 * right);
  return 100 * right >= at_least.value_or(quick ? 70 : 0) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
