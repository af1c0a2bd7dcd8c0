#include <fmt/format.h>
#include <unroll/compare/pair_tasks.h>
#include <unroll/graph/threads.h>
#include <unroll/io/atomic_file.h>
#include <unroll/io/text.h>
#include <unroll/optim/adam.h>
#include <unroll/train/bleu.h>
#include <unroll/train/teacher_forcing.h>
#include <unroll/train/trainer.h>
#include <unroll/train/translator.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "options.h"

namespace unroll::cli {
namespace {

struct Arguments {
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

// What is learned from, and what is held out.
struct Texts {
  std::vector<TextPair> train = {}, valid = {}, test = {};
  Tokenization source = Tokenization::words, target = Tokenization::words;
};

std::vector<TextPair> read_pairs(const std::vector<std::string>& files) {
  const std::vector<std::string> source = lines_of(read_text(files[0]));
  const std::vector<std::string> target = lines_of(read_text(files[1]));
  if (source.size() != target.size())
    throw DataError(error_message(
        "seq2seq",
        fmt::format("'{}' has {} lines, '{}' {}", files[0], source.size(), files[1], target.size()),
        nullptr, "Line by line, one is to be turned into the other"));
  std::vector<TextPair> pairs;
  for (std::size_t i = 0; i < source.size(); ++i)
    if (!source[i].empty()) pairs.push_back({source[i], target[i]});
  return pairs;
}

Texts texts_of(const Arguments& a) {
  if (a.task.empty()) {
    Texts texts{.train = read_pairs(a.train)};
    texts.source = texts.target =
        a.words == "words" ? Tokenization::words : Tokenization::characters;
    if (!a.valid.empty()) texts.valid = read_pairs(a.valid);
    if (!a.test.empty()) texts.test = read_pairs(a.test);
    return texts;
  }
  const PairTask& task = pair_task(a.task);
  Texts texts{.source = task.source, .target = task.target};
  // Other pairs in every part, the same ones for every model.
  std::uint64_t stream = 0;
  for (auto [part, count] : {std::pair(&texts.train, a.train_pairs),
                             {&texts.valid, a.test_pairs},
                             {&texts.test, a.test_pairs}}) {
    Generator generator(static_cast<std::uint64_t>(a.seed) + (stream++ << 32));
    for (std::int64_t i = 0; i < count; ++i) part->push_back(task.draw(generator));
  }
  return texts;
}

std::vector<std::string> side(const std::vector<TextPair>& pairs, std::string TextPair::*which) {
  std::vector<std::string> lines;
  for (const TextPair& pair : pairs) lines.push_back(pair.*which);
  return lines;
}

Schedule teacher_of(const Arguments& a, const std::string& sampling) {
  const auto steps = static_cast<double>(a.steps);
  if (sampling == "teacher") return teacher::constant(1);
  if (sampling == "free") return teacher::constant(0);
  if (sampling == "constant") return teacher::constant(a.teacher);
  if (sampling == "linear")
    return teacher::linear({.floor = a.floor, .slope = (1 - a.floor) / steps});
  if (sampling == "sigmoid") return teacher::inverse_sigmoid(teacher::inverse_sigmoid_k(steps / 2));
  fail("seq2seq", fmt::format("no sampling is named '{}'", sampling),
       "Known: teacher, constant, linear, sigmoid, free");
}

// Symbols in place of which there is another one, so that not everything can be told.
void disturb(std::vector<SequencePair>& pairs, double share, std::int64_t symbols,
             Generator generator) {
  if (share == 0) return;
  for (SequencePair& pair : pairs)
    for (std::int64_t& one : pair.source)
      if (generator.uniform() < share)
        one = unknown_token + 1 + generator.below(symbols - unknown_token - 1);
}

std::vector<SequencePair> encoded(const Translator& translator, const std::vector<TextPair>& texts,
                                  const Arguments& a, std::uint64_t stream) {
  std::vector<SequencePair> pairs;
  for (const TextPair& text : texts) {
    pairs.push_back(translator.encode(text.source, text.target));
    if (pairs.back().source.empty()) pairs.pop_back();
  }
  disturb(pairs, a.noise, translator.source.size(), Generator(77 + stream));
  return pairs;
}

// One model, trained and measured.
struct Trained {
  std::string sampling;
  double loss = 0, seconds = 0;
  std::vector<ExposurePoint> points = {};
  std::optional<Bleu> greedy = {}, beam = {};
};

class Run {
 public:
  Run(const Arguments& a, const Texts& texts, const std::string& sampling, std::int64_t seed,
      const std::string& out)
      : a_(a),
        texts_(texts),
        out_(out),
        generator_(static_cast<std::uint64_t>(seed)),
        translator_(make(a, texts, generator_)),
        train_(without_long(encoded(translator_, texts.train, a, 0))),
        valid_(encoded(translator_, texts.valid, a, 1)),
        test_(encoded(translator_, texts.test, a, 2)),
        result_{.sampling = sampling} {}

  Trained operator()() {
    learn();
    save_translator(out_, translator_);
    if (test_.empty()) return result_;
    result_.points = measure_exposure(*translator_.model, test_,
                                      std::max<std::int64_t>(a_.batch, 64), a_.lengths_per_column);
    if (a_.task.empty()) {
      result_.greedy = bleu(1);
      if (a_.beam > 1) result_.beam = bleu(a_.beam);
    }
    return result_;
  }

 private:
  static Translator make(const Arguments& a, const Texts& texts, Generator& generator) {
    const TokenVocabularyOptions options{.most = a.vocabulary, .at_least = a.at_least};
    Translator t{
        .config = {.kind = model_kind(a.model),
                   .embedding = a.embedding,
                   .hidden = a.hidden,
                   .layers = a.layers,
                   .heads = a.heads,
                   .attention = attention_score(a.attention),
                   .dropout = a.dropout},
        .source = TokenVocabulary(side(texts.train, &TextPair::source), texts.source, options),
        .target = TokenVocabulary(side(texts.train, &TextPair::target), texts.target, options),
        .model = nullptr};
    t.config.source_vocabulary = t.source.size();
    t.config.target_vocabulary = t.target.size();
    t.model = make_seq2seq(t.config, generator);
    return t;
  }

  std::vector<SequencePair> without_long(std::vector<SequencePair> pairs) const {
    std::erase_if(pairs, [&](const SequencePair& pair) {
      return static_cast<std::int64_t>(std::max(pair.source.size(), pair.target.size())) >
             a_.most_symbols;
    });
    return pairs;
  }

  void learn() {
    Seq2Seq& model = *translator_.model;
    const Schedule teacher = teacher_of(a_, result_.sampling);
    const RandomPairs batches(train_, a_.batch);
    fmt::print("{}, {}: {} parameters, {} pairs, vocabularies of {} and {}\n", a_.model,
               result_.sampling, model.parameter_count(), train_.size(), translator_.source.size(),
               translator_.target.size());
    Adam optimizer(model.parameters(),
                   {.learning_rate = a_.learning_rate, .betas = {0.9, 0.98}, .eps = 1e-9});
    Objective objective{.loss = [&](std::int64_t step, Generator& g, std::int64_t& tokens) {
      const PairBatch batch = batches.next(g);
      tokens += batch.inputs.numel();
      return seq2seq_loss(
          model, batch, g,
          {.sampling = {.teacher = teacher(step),
                        .two_pass = translator_.config.kind == ModelKind::transformer},
           .label_smoothing = a_.smoothing});
    }};
    if (!valid_.empty())
      objective.evaluate = [&] { return mean_symbol_loss(model, valid_, a_.batch); };
    const TrainResult trained =
        train(model, optimizer, objective, generator_,
              {.steps = a_.steps,
               .schedule = schedule::cosine({.rate = a_.learning_rate,
                                             .steps = a_.steps,
                                             .warmup_steps = std::min(a_.warmup, a_.steps / 2),
                                             .final_rate = a_.learning_rate / 10}),
               .clip_norm = a_.clip,
               .evaluate_every = a_.evaluate_every,
               .log = out_ + "/log.jsonl",
               .checkpoint = out_ + "/checkpoint.safetensors",
               .resume = a_.resume,
               .identity = {{"model", to_json(translator_.config)},
                            {"source", translator_.source.to_json()},
                            {"target", translator_.target.to_json()},
                            {"sampling",
                             fmt::format("{} {} {}", result_.sampling, a_.teacher, a_.floor)}},
               .label = fmt::format("{} {}", a_.model, result_.sampling)});
    for (const TrainPoint& p : trained.curve)
      fmt::print("step {:>6}  train {:.4f}  validation {:.4f}  {:.1f} s\n", p.step, p.train_loss,
                 p.validation_loss, p.seconds);
    if (trained.interrupted)
      fail("seq2seq", fmt::format("interrupted at step {}", trained.steps),
           "Continue with --resume");
    if (!trained.curve.empty()) result_.loss = trained.curve.back().validation_loss;
    result_.seconds = trained.seconds;
  }

  Bleu bleu(std::int64_t beam) {
    std::int64_t longest = a_.max_length;
    for (const SequencePair& pair : train_)
      if (a_.max_length == 0)
        longest = std::max(longest, static_cast<std::int64_t>(pair.target.size()) + 1);
    const auto found =
        translate_lines(translator_, side(texts_.test, &TextPair::source),
                        {.beam = beam, .max_length = longest, .length_penalty = a_.length_penalty});
    std::string text;
    std::vector<std::vector<std::string>> hypotheses, references;
    for (const std::vector<std::int64_t>& symbols : found) {
      text += translator_.target.decode(symbols) + '\n';
      hypotheses.emplace_back();
      for (const std::int64_t i : symbols)
        hypotheses.back().push_back(translator_.target.tokens()[static_cast<std::size_t>(i)]);
    }
    for (const TextPair& pair : texts_.test)
      references.push_back(tokenize(pair.target, texts_.target));
    write_file_atomically(fmt::format("{}/test.beam{}.txt", out_, beam), text);
    return corpus_bleu(hypotheses, references);
  }

  const Arguments& a_;
  const Texts& texts_;
  std::string out_;
  Generator generator_;
  Translator translator_;
  std::vector<SequencePair> train_, valid_, test_;
  Trained result_;
};

// The mean over the runs of one sampling.
std::vector<ExposurePoint> mean_of(const std::vector<const Trained*>& runs) {
  std::vector<ExposurePoint> mean = runs[0]->points;
  for (std::size_t i = 0; i < mean.size(); ++i) {
    mean[i].teacher_forced = mean[i].free_running = mean[i].exact = 0;
    for (const Trained* run : runs) {
      const auto n = static_cast<double>(runs.size());
      mean[i].teacher_forced += run->points[i].teacher_forced / n;
      mean[i].free_running += run->points[i].free_running / n;
      mean[i].exact += run->points[i].exact / n;
    }
  }
  return mean;
}

std::string percent(double share) { return fmt::format("{:.2f}", 100 * share); }

// Accuracies by length, and their gap, of every sampling.
void print_tables(const std::vector<Trained>& all, const std::vector<std::string>& samplings) {
  if (all[0].points.empty()) return;
  fmt::print("\nright symbols in % by target length: behind right ones / behind its own = gap\n");
  fmt::print("{:<10}", "sampling");
  for (const ExposurePoint& p : all[0].points) {
    const bool last = &p == &all[0].points.back();
    fmt::print("{:>23}", last ? "all" : fmt::format("{} to {}", p.shortest, p.longest));
  }
  fmt::print("{:>8}\n", "exact");
  for (const std::string& sampling : samplings) {
    std::vector<const Trained*> runs;
    for (const Trained& one : all)
      if (one.sampling == sampling) runs.push_back(&one);
    const std::vector<ExposurePoint> points = mean_of(runs);
    fmt::print("{:<10}", sampling);
    for (const ExposurePoint& p : points)
      fmt::print("{:>23}", fmt::format("{}/{} = {}", percent(p.teacher_forced),
                                       percent(p.free_running), percent(p.gap())));
    fmt::print("{:>8}\n", percent(points.back().exact));
  }
  for (const Trained& one : all)
    if (one.greedy) {
      fmt::print("{}: BLEU {:.2f} greedy", one.sampling, one.greedy->score);
      if (one.beam) fmt::print(", {:.2f} with the beam", one.beam->score);
      fmt::print("\n");
    }
}

nlohmann::json to_json(const Trained& one, std::int64_t seed) {
  nlohmann::json json{{"sampling", one.sampling},
                      {"seed", seed},
                      {"validation_loss", one.loss},
                      {"seconds", one.seconds},
                      {"points", nlohmann::json::array()}};
  for (const ExposurePoint& p : one.points)
    json["points"].push_back({{"shortest", p.shortest},
                              {"longest", p.longest},
                              {"sequences", p.sequences},
                              {"symbols", p.symbols},
                              {"teacher_forced", p.teacher_forced},
                              {"free_running", p.free_running},
                              {"exact", p.exact}});
  if (one.greedy) json["bleu_greedy"] = one.greedy->score;
  if (one.beam) json["bleu_beam"] = one.beam->score;
  return json;
}

void run(const Arguments& a) {
  set_threads(a.threads);
  for (const std::string& one : a.sampling) teacher_of(a, one);
  const Texts texts = texts_of(a);
  const OutputFolder folder(a.out);
  std::vector<Trained> all;
  nlohmann::json results{{"format", "unroll-seq2seq-results-1"}, {"runs", nlohmann::json::array()}};
  const bool alone = a.sampling.size() == 1 && a.seeds == 1;
  for (const std::string& sampling : a.sampling)
    for (std::int64_t seed = a.seed; seed < a.seed + a.seeds; ++seed) {
      const std::string out = alone ? a.out : fmt::format("{}/{}-{}", a.out, sampling, seed);
      std::filesystem::create_directories(out);
      all.push_back(Run(a, texts, sampling, seed, out)());
      results["runs"].push_back(to_json(all.back(), seed));
    }
  print_tables(all, a.sampling);
  write_file_atomically(folder.path() / "results.json", results.dump(2) + "\n");
  fmt::print("models: {}\n", a.out);
}

}  // namespace

void add_seq2seq(CLI::App& app) {
  auto* command = app.add_subcommand(
      "seq2seq", "Trains encoder-decoders on pairs of texts, and measures their exposure bias");
  const auto a = std::make_shared<Arguments>();
  std::string tasks;
  for (const PairTask& one : pair_tasks())
    tasks += fmt::format("{}{}", tasks.empty() ? "" : ", ", one.name);
  auto* train = command->add_option("--train", a->train, "Two UTF-8 texts: sources, and targets")
                    ->expected(2);
  auto* task = command->add_option("--task", a->task, "Or a task with exact answers: " + tasks)
                   ->excludes(train);
  command->add_option("--valid", a->valid, "Likewise")->expected(2)->needs(train);
  command->add_option("--test", a->test, "Likewise")->expected(2)->needs(train);
  command->add_option("--out", a->out, "Folder for the models, their logs and checkpoints");
  command->add_option("--tokens", a->words, "words or characters of the texts")
      ->needs(train)
      ->check(CLI::IsMember({"words", "characters"}));
  command->add_option("--vocabulary", a->vocabulary, "The most frequent symbols; 0: all")
      ->check(whole(0, most_units));
  command->add_option("--at-least", a->at_least, "Occurrences of a symbol that is one")
      ->check(whole(1));
  command->add_option("--most-symbols", a->most_symbols, "Longer pairs are not trained on")
      ->check(whole(1, most_units));
  command->add_option("--train-pairs", a->train_pairs, "Of a task")
      ->needs(task)
      ->check(whole(1, 100'000'000));
  command->add_option("--test-pairs", a->test_pairs, "Of a task")
      ->needs(task)
      ->check(whole(1, 100'000'000));
  command->add_option("--noise", a->noise, "Share of a task's source symbols put by chance")
      ->needs(task)
      ->check(real(0, 1));
  command->add_option("--model", a->model, "rnn, lstm, gru or transformer");
  command->add_option("--attention", a->attention, "additive, general or dot (recurrent)");
  command->add_option("--hidden", a->hidden)->check(whole(1, most_units));
  command->add_option("--embedding", a->embedding, "Recurrent")->check(whole(1, most_units));
  command->add_option("--layers", a->layers)->check(whole(1, 1000));
  command->add_option("--heads", a->heads, "Transformer")->check(whole(1, 1000));
  command->add_option("--dropout", a->dropout)->check(real(0, 0.99));
  command->add_option("--label-smoothing", a->smoothing)->check(real(0, 0.99));
  command
      ->add_option("--sampling", a->sampling,
                   "What the decoder reads in training, one or several: teacher, constant, linear, "
                   "sigmoid, free")
      ->delimiter(',');
  command->add_option("--teacher", a->teacher, "constant: probability of the right symbol")
      ->check(real(0, 1));
  command->add_option("--floor", a->floor, "linear: the last step's")->check(real(0, 1));
  command->add_option("--seeds", a->seeds, "Models a sampling")->check(whole(1, 1000));
  command->add_option("--seed", a->seed)->check(whole(0, std::int64_t{1} << 31));
  command->add_option("--steps", a->steps)->check(whole(1));
  command->add_option("--batch", a->batch)->check(whole(1, most_units));
  command->add_option("--learning-rate", a->learning_rate)->check(positive());
  command->add_option("--warmup", a->warmup)->check(whole(0));
  command->add_option("--clip", a->clip, "Norm; 0: none")->check(real(0));
  command->add_option("--evaluate-every", a->evaluate_every)->check(whole(1));
  command->add_option("--beam", a->beam, "Of the second BLEU; 1: greedy alone")
      ->check(whole(1, 10'000));
  command->add_option("--length-penalty", a->length_penalty)->check(real(0, 10));
  command->add_option("--max-length", a->max_length, "Of a translation; 0: the longest in training")
      ->check(whole(0, most_units));
  command->add_option("--lengths-per-column", a->lengths_per_column, "Of the table")
      ->check(whole(1, most_units));
  command->add_option("--threads", a->threads)->check(whole(1, 1024));
  command->add_flag("--resume", a->resume, "Continue from the checkpoints in --out");
  command->callback([a] {
    if (a->task.empty() && a->train.empty()) a->task = "dates";
    if (a->out.empty()) a->out = a->model + "-seq2seq";
    run(*a);
  });
}

}  // namespace unroll::cli
