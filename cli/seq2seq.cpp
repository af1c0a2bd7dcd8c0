#include <fmt/format.h>
#include <unroll/graph/threads.h>
#include <unroll/io/atomic_file.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "model_folder.h"
#include "options.h"
#include "seq2seq_run.h"

namespace unroll::cli {
namespace {

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

// What the model or the run has no use for must not be taken for granted.
void check_options(const Seq2SeqArguments& a, const CLI::App& command) {
  const bool transformer = seq2seq_kind(a.model) == ModelKind::transformer;
  only_if(transformer, command, {"--heads"}, "for a model of kind " + a.model);
  only_if(!transformer, command, {"--attention", "--embedding"}, "for a Transformer");
  const auto samples = [&](const char* name) { return std::ranges::count(a.sampling, name); };
  only_if(samples("constant") > 0, command, {"--teacher"}, "without --sampling constant");
  only_if(samples("linear") > 0, command, {"--floor"}, "without --sampling linear");
  for (const std::string& one : a.sampling) {
    teacher_schedule(a, one);
    if (samples(one.c_str()) > 1)
      fail("seq2seq", fmt::format("sampling '{}' is named twice", one),
           "--seeds trains each several times");
  }
  const std::string untested = "without --test: it is for BLEU";
  only_if(!a.test.empty(), command, {"--beam", "--length-penalty", "--max-length"}, untested);
  only_if(!a.test.empty() || !a.task.empty(), command, {"--lengths-per-column"}, "without --test");
  only_if(a.beam > 1, command, {"--length-penalty"}, "without a beam");
}

void run(const Seq2SeqArguments& a) {
  set_threads(a.threads);
  const PairTexts texts = pair_texts(a);
  const bool alone = a.sampling.size() == 1 && a.seeds == 1;
  struct Part {
    std::string sampling;
    std::int64_t seed;
    std::string out;
  };
  std::vector<Part> parts;
  std::vector<std::filesystem::path> folders;
  for (const std::string& sampling : a.sampling) {  // before minutes of work
    const auto identity = run_identity(a, texts, sampling);
    for (std::int64_t seed = a.seed; seed < a.seed + a.seeds; ++seed) {
      parts.push_back(
          {sampling, seed, alone ? a.out : fmt::format("{}/{}-{}", a.out, sampling, seed)});
      folders.emplace_back(parts.back().out);
      check_model_folder("seq2seq", folders.back(), identity);
    }
  }
  if (a.resume) check_resumable("seq2seq", folders);
  const OutputFolder folder(a.out);
  std::vector<Trained> all;
  nlohmann::json results{{"format", "unroll-seq2seq-results-1"}, {"runs", nlohmann::json::array()}};
  for (const auto& [sampling, seed, out] : parts) {
    std::filesystem::create_directories(out);
    all.push_back(train_and_measure(a, texts, sampling, seed, out));
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
  const auto a = std::make_shared<Seq2SeqArguments>();
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
  command->add_option("--warmup", a->warmup, "Steps, at the most half of all if not given")
      ->check(whole(0));
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
  command->callback([a, command] {
    if (a->task.empty() && a->train.empty()) a->task = "dates";
    if (a->out.empty()) a->out = a->model + "-seq2seq";
    check_options(*a, *command);
    a->warmup = warmup_steps(*command, a->warmup, a->steps);
    run(*a);
  });
}

}  // namespace unroll::cli
