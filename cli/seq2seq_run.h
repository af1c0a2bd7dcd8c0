#pragma once

#include <unroll/compare/pair_tasks.h>
#include <unroll/train/bleu.h>
#include <unroll/train/teacher_forcing.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace unroll::cli {

/// The options of the command seq2seq.
struct Seq2SeqArguments {
  std::string task, out, words = "words", model = "gru", attention = "additive";
  std::vector<std::string> train, valid, test, sampling = {"teacher"};
  std::int64_t vocabulary = 8000, at_least = 1, hidden = 128, embedding = 64;
  std::int64_t train_pairs = 10'000, test_pairs = 1000;
  std::int64_t steps = 2000, batch = 64, warmup = 100, evaluate_every = 500, seed = 1;
  std::int64_t beam = 5, max_length = 0, lengths_per_column = 3, most_symbols = 60;
  int layers = 1, heads = 4, threads = 1, seeds = 1;
  double dropout = 0, smoothing = 0, learning_rate = 2e-3, clip = 1, teacher = 0.75, floor = 0;
  double noise = 0, length_penalty = 0.6;
  bool resume = false;
};

/// What is learned from, and what is held out.
struct PairTexts {
  std::vector<TextPair> train = {}, valid = {}, test = {};
  Tokenization source = Tokenization::words, target = Tokenization::words;
};

/// Reads the files, or draws the task's pairs. Throws DataError for files of unequal lines.
PairTexts pair_texts(const Seq2SeqArguments& a);

/// How likely the right symbol is read, by step. Throws Error for an unknown name.
Schedule teacher_schedule(const Seq2SeqArguments& a, const std::string& sampling);

/// What a run is told by: its model, vocabularies, pairs and sampling (see TrainOptions::identity).
std::map<std::string, std::string> run_identity(const Seq2SeqArguments& a, const PairTexts& texts,
                                                const std::string& sampling);

/// One model, trained and measured.
struct Trained {
  std::string sampling;
  double loss = 0, seconds = 0;
  std::vector<ExposurePoint> points = {};
  std::optional<Bleu> greedy = {}, beam = {};
};

/// Trains one model, writes it to the folder `out`, and measures it on the test pairs.
Trained train_and_measure(const Seq2SeqArguments& a, const PairTexts& texts,
                          const std::string& sampling, std::int64_t seed, const std::string& out);

}  // namespace unroll::cli
