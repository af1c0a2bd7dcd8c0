#include <fmt/format.h>
#include <unroll/graph/precision.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/loss.h>
#include <unroll/optim/adam.h>
#include <unroll/train/model_dir.h>
#include <unroll/train/progress.h>
#include <unroll/train/trainer.h>

#include <memory>

#include "commands.h"
#include "model_folder.h"
#include "options.h"

namespace unroll::cli {
namespace {

struct TrainArguments {
  std::string model = "lstm", text, out, recipe, precision = "f32";
  std::int64_t parameters = 0, hidden = 0, embedding = 128, batch = 12, context = 64;
  std::int64_t steps = 2000, evaluate_every = 500, warmup = 100, seed = 1337, k2 = 0;
  int layers = 2, heads = 4, threads = 1, evaluation_batches = 200, patience = 0;
  double learning_rate = 1e-3, decay = 0.1, clip = 1.0, dropout = 0, gradient_noise = 0;
  bool resume = false, carry_state = false, layer_norm = false;
  Regularization regularization = {};
};

// nanoGPT's recipe for a CPU: how it trains, with the optimizer of every run. Batches and windows
// are the recipe's; a schedule that is given beside it stands.
void apply_recipe(TrainArguments& a, const CLI::App& command) {
  if (a.recipe != "nanogpt-cpu")
    fail("train", fmt::format("no recipe is named '{}'", a.recipe), "Known: nanogpt-cpu");
  const auto set = [&](const char* option, auto& value, auto to) {
    if (command.count(option) == 0) value = to;
  };
  a.batch = 12;
  a.context = 64;
  set("--steps", a.steps, 2000);
  set("--learning-rate", a.learning_rate, 1e-3);
  set("--warmup", a.warmup, 100);
  set("--weight-decay", a.decay, 0.1);
  set("--clip", a.clip, 1.0);
  set("--dropout", a.dropout, 0.0);
}

// Its Transformer, and other models of about the same number of parameters; sizes of whole vectors,
// which products are quickest with.
void apply_recipe_sizes(ModelConfig& config) {
  config.embedding = 128;
  config.layers = 2;
  switch (config.kind) {
    case ModelKind::rnn:
      config.hidden = 480;
      break;
    case ModelKind::lstm:
      config.hidden = 224;
      break;
    case ModelKind::gru:
      config.hidden = 264;
      break;
    case ModelKind::mingru:
    case ModelKind::minlstm:
    case ModelKind::rwkv:
      config.hidden = 112;
      config.layers = 4;
      break;
    case ModelKind::mamba:
      config.hidden = 160;
      config.layers = 4;
      break;
    case ModelKind::transformer:
      config.hidden = 128;
      config.layers = 4;
      config.heads = 4;
      config.positions = Positions::learned;
      config.bias = false;
      config.tied = true;
      break;
  }
}

ModelConfig config_of(const TrainArguments& a, std::int64_t vocabulary) {
  ModelConfig config{.kind = model_kind(a.model),
                     .vocabulary = vocabulary,
                     .embedding = a.embedding,
                     .layers = a.layers,
                     .heads = a.heads,
                     .context = a.context,
                     .dropout = a.dropout,
                     .layer_norm = a.layer_norm,
                     .regularization = a.regularization};
  if (!a.recipe.empty()) {
    apply_recipe_sizes(config);
  } else if (a.hidden > 0) {
    config.hidden = a.hidden;
  } else {
    config = sized(config, a.parameters > 0 ? a.parameters : 200'000);
  }
  return config;
}

// What the model or the run has no use for must not be taken for granted.
void check_options(const TrainArguments& a, const CLI::App& command) {
  const ModelKind kind = model_kind(a.model);
  const std::string model = "for a model of kind " + a.model;
  only_if(kind == ModelKind::transformer || kind == ModelKind::rwkv, command, {"--heads"}, model);
  only_if(!has_blocks(kind), command, {"--embedding"}, model);
  only_if(has_blocks(kind) || a.layers > 1 || !a.recipe.empty(), command, {"--dropout"},
          "for an RNN, LSTM or GRU of one layer: it lies between layers");
}

void run(const TrainArguments& a) {
  set_threads(a.threads);
  const DType precision = a.precision == "bf16" ? DType::bf16 : DType::f32;
  check_precision(precision);
  const std::string text = read_text(a.text);
  const Vocabulary vocabulary = Vocabulary::characters(text);
  const std::vector<std::int64_t> tokens = vocabulary.encode(text);
  const auto cut = static_cast<std::size_t>(
      training_part("train", static_cast<std::int64_t>(tokens.size()), a.context, "characters"));
  const std::span<const std::int64_t> all(tokens);
  const RandomWindows train_windows(all.first(cut), a.batch, a.context);
  const RandomWindows held_windows(all.subspan(cut), a.batch, a.context);
  ContiguousWindows stream(all.first(cut), a.batch, a.context);

  Generator generator(static_cast<std::uint64_t>(a.seed));
  const ModelConfig config = config_of(a, vocabulary.size());
  const std::map<std::string, std::string> identity{{"model", to_json(config)},
                                                    {"vocabulary", vocabulary.to_json()},
                                                    {"text", fingerprint(text)}};
  check_model_folder("train", a.out, identity);
  if (a.resume) {
    check_resumable("train", {a.out});
    fmt::print(
        "resuming; from here on the schedule is this command's: learning rate {}, {} steps\n",
        a.learning_rate, a.steps);
  }
  const auto model = make_model(config, generator);
  fmt::print("{}: {} parameters, {} training and {} held-out characters, vocabulary {}\n", a.model,
             model->parameter_count(), cut, tokens.size() - cut, vocabulary.size());

  AdamW optimizer(
      decay_groups(model->named_parameters()),
      {.learning_rate = a.learning_rate, .betas = {0.9, 0.99}, .weight_decay = a.decay});
  TrainTask task{
      .loss = [](const Tensor& output, const Batch& b) { return cross_entropy(output, b.y); }};
  TrainTask held = task;
  held.next = [&](Generator& g) { return held_windows.next(g); };
  task.next = [&](Generator& g) { return a.carry_state ? stream.next() : train_windows.next(g); };
  task.carry_state = a.carry_state;
  task.k2 = a.k2;
  task.at_start = [&] { return stream.at_start(); };
  task.seek = [&](std::int64_t batches) { stream.seek(batches % stream.batches() * a.context); };
  task.evaluate = [&](SequenceModel& m) {
    return mean_loss(m, held, Generator(7), a.evaluation_batches);
  };
  const OutputFolder folder(a.out);
  const TrainResult result =
      train(*model, optimizer, task, generator,
            {.steps = a.steps,
             .schedule = schedule::cosine({.rate = a.learning_rate,
                                           .steps = a.steps,
                                           .warmup_steps = a.warmup,
                                           .final_rate = a.learning_rate / 10}),
             .clip_norm = a.clip,
             .gradient_noise = {.eta = a.gradient_noise},
             .precision = precision,
             .evaluate_every = a.evaluate_every,
             .patience = a.patience,
             .log = a.out + "/log.jsonl",
             .checkpoint = checkpoint_in(a.out),
             .resume = a.resume,
             .identity = identity,
             .label = "train " + a.model});
  save_model(a.out, config, vocabulary, *model);
  for (const TrainPoint& p : result.curve)
    fmt::print("step {:>6}  train {:.4f}  validation {:.4f}  {:.1f} s\n", p.step, p.train_loss,
               p.validation_loss, p.seconds);
  if (result.interrupted) {
    fmt::print("interrupted at step {}; continue with --resume\n", result.steps);
  } else {
    fmt::print("validation loss {:.4f} after {} steps, {:.1f} s of training ({:.0f} tokens/s)\n",
               result.curve.back().validation_loss, result.steps, result.seconds,
               static_cast<double>(result.tokens) / result.seconds);
  }
  fmt::print("model: {}\n", a.out);
}

}  // namespace

void add_train(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Trains a character model on a text");
  const auto a = std::make_shared<TrainArguments>();
  command->add_option("--model", a->model,
                      "rnn, lstm, gru, mingru, minlstm, mamba, rwkv or transformer");
  command->add_option("--text", a->text, "UTF-8 text; the first 90 % train")->required();
  command->add_option("--out", a->out, "Folder for the model, its log and checkpoint");
  auto* recipe =
      command->add_option("--recipe", a->recipe, "nanogpt-cpu: its sizes, batches and schedule");
  auto* parameters = command->add_option("--parameters", a->parameters, "Size the model to so many")
                         ->default_str("200000")
                         ->excludes(recipe)
                         ->check(whole(1));
  command->add_option("--hidden", a->hidden, "Or give its hidden size")
      ->default_str("")
      ->excludes(recipe)
      ->excludes(parameters)
      ->check(whole(1, most_units));
  command->add_option("--embedding", a->embedding, "RNN, LSTM, GRU")
      ->excludes(recipe)
      ->check(whole(1, most_units));
  command->add_option("--layers", a->layers)->excludes(recipe)->check(whole(1, 1000));
  command->add_option("--heads", a->heads, "Transformer, RWKV")
      ->excludes(recipe)
      ->check(whole(1, 1000));
  command->add_option("--dropout", a->dropout)->check(real(0, 0.99));
  for (const auto& [name, value] : Regularization::fields()) {
    std::string option = fmt::format("--{}", name);
    std::replace(option.begin(), option.end(), '_', '-');
    command->add_option(option, a->regularization.*value, "RNN, LSTM, GRU: see docs/training.md")
        ->check(real(0, 0.99));
  }
  command->add_flag("--layer-norm", a->layer_norm, "A layer-norm LSTM");
  command->add_option("--batch", a->batch)->excludes(recipe)->check(whole(1));
  command->add_option("--context", a->context)->excludes(recipe)->check(whole(1, most_units));
  command->add_option("--steps", a->steps)->check(whole(1));
  command->add_option("--learning-rate", a->learning_rate)->check(positive());
  command->add_option("--warmup", a->warmup, "Steps, at the most half of all if not given")
      ->check(whole(0));
  command->add_option("--weight-decay", a->decay)->check(real(0));
  command->add_option("--clip", a->clip, "Norm; 0: none")->check(real(0));
  command
      ->add_option("--gradient-noise", a->gradient_noise,
                   "Variance of the first step's noise; it falls with the steps")
      ->check(real(0));
  command->add_option("--evaluate-every", a->evaluate_every)->check(whole(1));
  command->add_option("--evaluation-batches", a->evaluation_batches)
      ->check(whole(1, 1'000'000'000));
  command->add_option("--patience", a->patience, "Evaluations without a better loss; 0: never stop")
      ->check(whole(0, 1'000'000'000));
  command
      ->add_option("--precision", a->precision,
                   "Of the products in training: f32, or bf16 where the processor has it")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command->add_option("--seed", a->seed)->check(whole(0));
  command->add_option("--threads", a->threads)->check(whole(1, 1024));
  auto* carry = command->add_flag("--carry-state", a->carry_state,
                                  "Read on and carry the state: truncated back-propagation");
  command->add_option("--k2", a->k2, "Steps that a gradient goes back, where not --context")
      ->needs(carry)
      ->check(whole(1, most_units));
  command->add_flag("--resume", a->resume, "Continue from the checkpoint in --out");
  command->callback([a, command] {
    check_options(*a, *command);
    if (!a->recipe.empty()) apply_recipe(*a, *command);
    a->warmup = warmup_steps(*command, a->warmup, a->steps);
    if (a->out.empty()) a->out = a->model + "-model";
    run(*a);
  });
}

}  // namespace unroll::cli
