#include "seq2seq_run.h"

#include <fmt/format.h>
#include <unroll/io/atomic_file.h>
#include <unroll/io/text.h>
#include <unroll/optim/adam.h>
#include <unroll/train/trainer.h>
#include <unroll/train/translator.h>

#include <algorithm>

#include "model_folder.h"
#include "options.h"

namespace unroll::cli {
namespace {

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

std::vector<std::string> side(const std::vector<TextPair>& pairs, std::string TextPair::*which) {
  std::vector<std::string> lines;
  for (const TextPair& pair : pairs) lines.push_back(pair.*which);
  return lines;
}

std::string joined(const std::vector<TextPair>& pairs) {
  std::string text;
  for (const TextPair& pair : pairs) text += pair.source + '\n' + pair.target + '\n';
  return text;
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
                                  const Seq2SeqArguments& a, std::uint64_t stream) {
  std::vector<SequencePair> pairs;
  for (const TextPair& text : texts) {
    pairs.push_back(translator.encode(text.source, text.target));
    if (pairs.back().source.empty()) pairs.pop_back();
  }
  disturb(pairs, a.noise, translator.source.size(), Generator(77 + stream));
  return pairs;
}

Translator without_model(const Seq2SeqArguments& a, const PairTexts& texts) {
  const TokenVocabularyOptions options{.most = a.vocabulary, .at_least = a.at_least};
  Translator t{
      .config = {.kind = seq2seq_kind(a.model),
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
  return t;
}

std::map<std::string, std::string> identity_of(const Seq2SeqArguments& a, const PairTexts& texts,
                                               const std::string& sampling, const Translator& t) {
  return {{"model", to_json(t.config)},
          {"source", t.source.to_json()},
          {"target", t.target.to_json()},
          {"pairs", fingerprint(joined(texts.train))},
          {"sampling", fmt::format("{} {} {}", sampling, a.teacher, a.floor)}};
}

class Run {
 public:
  Run(const Seq2SeqArguments& a, const PairTexts& texts, const std::string& sampling,
      std::int64_t seed, const std::string& out)
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
  static Translator make(const Seq2SeqArguments& a, const PairTexts& texts, Generator& generator) {
    Translator t = without_model(a, texts);
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
    const Schedule teacher = teacher_schedule(a_, result_.sampling);
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
                                             .warmup_steps = a_.warmup,
                                             .final_rate = a_.learning_rate / 10}),
               .clip_norm = a_.clip,
               .evaluate_every = a_.evaluate_every,
               .log = out_ + "/log.jsonl",
               .checkpoint = checkpoint_in(out_),
               .resume = a_.resume,
               .identity = identity_of(a_, texts_, result_.sampling, translator_),
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

  const Seq2SeqArguments& a_;
  const PairTexts& texts_;
  std::string out_;
  Generator generator_;
  Translator translator_;
  std::vector<SequencePair> train_, valid_, test_;
  Trained result_;
};

}  // namespace

PairTexts pair_texts(const Seq2SeqArguments& a) {
  if (a.task.empty()) {
    PairTexts texts{.train = read_pairs(a.train)};
    texts.source = texts.target =
        a.words == "words" ? Tokenization::words : Tokenization::characters;
    if (!a.valid.empty()) texts.valid = read_pairs(a.valid);
    if (!a.test.empty()) texts.test = read_pairs(a.test);
    return texts;
  }
  const PairTask& task = pair_task(a.task);
  PairTexts texts{.source = task.source, .target = task.target};
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

Schedule teacher_schedule(const Seq2SeqArguments& a, const std::string& sampling) {
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

std::map<std::string, std::string> run_identity(const Seq2SeqArguments& a, const PairTexts& texts,
                                                const std::string& sampling) {
  return identity_of(a, texts, sampling, without_model(a, texts));
}

Trained train_and_measure(const Seq2SeqArguments& a, const PairTexts& texts,
                          const std::string& sampling, std::int64_t seed, const std::string& out) {
  return Run(a, texts, sampling, seed, out)();
}

}  // namespace unroll::cli
