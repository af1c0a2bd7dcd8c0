#include <fmt/format.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/loss.h>
#include <unroll/train/model_dir.h>
#include <unroll/train/trainer.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numbers>

#include "commands.h"
#include "model_text.h"
#include "options.h"

namespace unroll::cli {
namespace {

struct EvaluateArguments : ModelTextArguments {
  std::int64_t context = 64, batch = 12;
  int batches = 200, threads = 1;
};

struct GenerateArguments {
  std::string folder, prompt = "\n";
  std::int64_t count = 500, seed = 1;
  double temperature = 0.8;
};

}  // namespace

void add_evaluate(CLI::App& app) {
  auto* command = app.add_subcommand("evaluate", "The loss of a saved model on a text");
  const auto a = std::make_shared<EvaluateArguments>();
  add_model_text(*command, *a);
  command->add_option("--context", a->context, "Steps of a window")->check(whole(1, most_units));
  command->add_option("--batch", a->batch)->check(whole(1));
  command->add_option("--batches", a->batches, "Random windows in all: batch times batches")
      ->check(whole(1, 1'000'000'000));
  command->add_option("--threads", a->threads)->check(whole(1, 1024));
  command->callback([a] {
    set_threads(a->threads);
    const ModelText read = load_model_text(*a);
    const RandomWindows windows(read.tokens, a->batch, a->context);
    const TrainTask task{
        .next = [&](Generator& g) { return windows.next(g); },
        .loss = [](const Tensor& output, const Batch& b) { return cross_entropy(output, b.y); }};
    const double loss = mean_loss(*read.model.model, task, Generator(7), a->batches);
    fmt::print("loss {:.6f} nats per character ({:.4f} bits, perplexity {:.3f})\n", loss,
               loss / std::numbers::ln2, std::exp(loss));
  });
}

void add_generate(CLI::App& app) {
  auto* command = app.add_subcommand("generate", "Continues a text with a saved model");
  const auto a = std::make_shared<GenerateArguments>();
  command->add_option("--model-dir", a->folder, "Folder of config.json and model.safetensors")
      ->required();
  const auto* prompt = command->add_option(
      "--prompt", a->prompt, "What to continue (default: a new line, or the vocabulary's first)");
  const auto* count =
      command->add_option("--count", a->count, "Characters, as many as have room if not given")
          ->check(whole(0));
  command->add_option("--temperature", a->temperature, "0: always the most likely")->check(real(0));
  command->add_option("--seed", a->seed)->check(whole(0));
  command->callback([a, prompt, count] {
    LanguageModel model = load_model(a->folder);
    const std::vector<std::string> symbols = model.vocabulary.symbols();
    if (prompt->count() == 0 && std::ranges::find(symbols, a->prompt) == symbols.end())
      a->prompt = symbols.front();
    const auto read = static_cast<std::int64_t>(model.vocabulary.encode(a->prompt).size());
    const auto room = room_behind(model.config, read);
    if (count->count() == 0 && room && *room >= 0 && *room < a->count) {
      a->count = *room;
      fmt::print(stderr, "{} characters: a context of {} has room for no more behind {}\n", *room,
                 model.config.context, read);
    }
    Generator generator(static_cast<std::uint64_t>(a->seed));
    const std::string text = generate(model, a->prompt, a->count, a->temperature, generator);
    fmt::print("{}{}\n", a->prompt, text);
  });
}

}  // namespace unroll::cli
