#include <fmt/format.h>
#include <unroll/graph/threads.h>
#include <unroll/io/fail_data.h>
#include <unroll/train/forecast.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>

#include "commands.h"
#include "options.h"

namespace unroll::cli {
namespace {

struct ForecastArguments {
  std::string series;
  std::vector<std::string> models = {"dlinear", "lstm", "gru", "transformer"}, columns;
  std::vector<std::int64_t> split;
  std::int64_t horizon = 24, look_back = 336, period = 24, seed = 1, seeds = 1, kernel = 25;
  std::int64_t parameters = ForecasterOptions{}.parameters;
  int layers = 1, threads = 1;
  double dropout = ForecasterOptions{}.dropout;
  bool mix_channels = false;
  std::optional<std::int64_t> patch;    // undefined: 24, or a shorter look-back
  std::optional<int> epochs, patience;  // these four: undefined as in forecast_recipe()
  std::optional<std::int64_t> batch;
  std::optional<double> learning_rate;
};

// The monthly sunspots among the data sets that do not belong to the program.
std::string default_series() {
  const char* folder = std::getenv("UNROLL_DATA");
  const auto path =
      std::filesystem::path(folder != nullptr ? folder : "") / "sunspots/sunspots_monthly.csv";
  if (folder == nullptr || !std::filesystem::exists(path))
    fail_data("forecast", "no series is given",
              "Give --series FILE.csv, or a folder with sunspots/sunspots_monthly.csv as "
              "UNROLL_DATA");
  return path.string();
}

void print_score(const std::string& name, const ForecastScore& test, const std::string& rest) {
  fmt::print("{:<16}{:>10.4f}{:>10.4f}{}\n", name, test.mse, test.mae, rest);
  std::fflush(stdout);  // minutes may pass until the next line
}

// What none of the models has a use for, or no window has room for, must not be taken for granted.
void check_options(const ForecastArguments& a, const CLI::App& command) {
  for (auto name = a.models.begin(); name != a.models.end(); ++name)
    if (std::find(a.models.begin(), name, *name) != name)
      fail("forecast", fmt::format("model '{}' is named twice", *name),
           "--seeds trains each several times");
  const auto linear = std::ranges::count(a.models, "dlinear");
  only_if(linear > 0, command, {"--kernel"}, "without dlinear");
  only_if(linear < std::ssize(a.models), command,
          {"--parameters", "--layers", "--dropout", "--patch", "--mix-channels"},
          "for dlinear alone");
  if (command.count("--period") > 0 && a.period > a.look_back)
    fail("forecast",
         fmt::format("a season of {} steps in a look-back of {}", a.period, a.look_back),
         "Give a longer --look-back, or a shorter --period");
}

void run(const ForecastArguments& a) {
  set_threads(a.threads);
  const std::string path = a.series.empty() ? default_series() : a.series;
  const Table table = read_csv(path, {.columns = a.columns});
  if (!a.split.empty() && a.split.size() != 3)
    fail("forecast", fmt::format("--split with {} numbers", a.split.size()),
         "Give the rows for training, validation and test, as 8640,2880,2880");
  const SeriesSplit split = a.split.empty() ? default_split(table.rows())
                                            : SeriesSplit{a.split[0], a.split[1], a.split[2]};
  const ForecastData data(table.tensor({}, DType::f64), split, a.look_back, a.horizon);
  const auto options = [&](const std::string& model) {
    return ForecasterOptions{
        .model = model,
        .channels = data.channels,
        .look_back = a.look_back,
        .horizon = a.horizon,
        .kernel = a.kernel,
        .parameters = a.parameters,
        .layers = a.layers,
        .dropout = a.dropout,
        .patch = a.patch.value_or(std::min(ForecasterOptions{}.patch, a.look_back)),
        .channel_independent = !a.mix_channels};
  };
  for (const std::string& model : a.models) {  // what is wrong with one shows before any training
    Generator generator(static_cast<std::uint64_t>(a.seed));
    make_forecaster(options(model), generator);
  }
  fmt::print(
      "{}: {} channels, {} + {} + {} rows to train, validate and test\n"
      "{} steps from the last {}; errors of scaled values on {} test windows\n\n",
      std::filesystem::path(path).filename().string(), data.channels, split.train, split.validation,
      split.test, a.horizon, a.look_back, data.test.count());
  fmt::print("{:<16}{:>10}{:>10}{:>12}{:>12}{:>8}{:>10}\n", "", "test MSE", "test MAE",
             "valid. MSE", "parameters", "epoch", "seconds");
  print_score("persistence",
              score_forecast([&](const Tensor& x) { return forecast_persistence(x, a.horizon); },
                             data.test),
              "");
  if (a.period > 1 && a.period <= a.look_back)
    print_score(
        fmt::format("seasonal ({})", a.period),
        score_forecast([&](const Tensor& x) { return forecast_seasonal(x, a.horizon, a.period); },
                       data.test),
        "");
  for (const std::string& name : a.models) {
    EpochOptions recipe = forecast_recipe(name);
    recipe.epochs = a.epochs.value_or(recipe.epochs);
    recipe.patience = a.patience.value_or(recipe.patience);
    recipe.batch = a.batch.value_or(recipe.batch);
    recipe.learning_rate = a.learning_rate.value_or(recipe.learning_rate);
    recipe.label = name;
    ForecastScore mean;
    for (std::int64_t seed = a.seed; seed < a.seed + a.seeds; ++seed) {
      Generator generator(static_cast<std::uint64_t>(seed));
      const auto model = make_forecaster(options(name), generator);
      const EpochResult result = train_forecaster(*model, data, generator, recipe);
      if (result.interrupted) fail("forecast", "interrupted while training " + name);
      const ForecastScore score = score_forecast(std::ref(*model), data.test);
      mean.mse += score.mse / static_cast<double>(a.seeds);
      mean.mae += score.mae / static_cast<double>(a.seeds);
      print_score(name, score,
                  fmt::format("{:>12.4f}{:>12}{:>8}{:>10.1f}", result.best,
                              model->parameter_count(), result.best_epoch, result.seconds));
    }
    if (a.seeds > 1) print_score(fmt::format("  mean of {}", a.seeds), mean, "");
  }
}

}  // namespace

void add_forecast(CLI::App& app) {
  auto* command = app.add_subcommand(
      "forecast", "Trains models to forecast a series, beside DLinear and naive forecasts");
  const auto a = std::make_shared<ForecastArguments>();
  command->add_option("--series", a->series, "CSV with a header, rows in order of time")
      ->default_str("sunspots/sunspots_monthly.csv in $UNROLL_DATA");
  command->add_option("--columns", a->columns, "Columns to read and forecast (default: all)")
      ->delimiter(',');
  command
      ->add_option("--models", a->models,
                   "Of dlinear, rnn, lstm, gru, mingru, minlstm, mamba, rwkv, transformer")
      ->delimiter(',');
  command
      ->add_option("--split", a->split,
                   "Rows to train, validate and test (default: 70, 10 and 20 %)")
      ->delimiter(',')
      ->check(whole(1));
  command->add_option("--horizon", a->horizon, "Steps to forecast")->check(whole(1, 1'000'000));
  command->add_option("--look-back", a->look_back, "Steps that are read")
      ->check(whole(1, 1'000'000));
  command
      ->add_option("--period", a->period,
                   "Steps of a season, for the seasonal naive forecast; 1: none")
      ->check(whole(1));
  command->add_option("--kernel", a->kernel, "DLinear: steps of the moving average, an odd number")
      ->check(whole(1, 1'000'001));
  command
      ->add_option("--parameters", a->parameters,
                   "Parameters of each sequence model, without the layer that forecasts")
      ->check(whole(1000, 1'000'000'000));
  command->add_option("--layers", a->layers, "Layers of each sequence model")
      ->check(whole(1, 1000));
  command->add_option("--dropout", a->dropout, "Of the sequence models")->check(real(0, 0.99));
  command->add_option("--patch", a->patch, "Rows that a sequence model reads in one step")
      ->default_str("24, or the look-back where that is shorter")
      ->check(whole(1));
  command->add_flag("--mix-channels", a->mix_channels,
                    "Sequence models read all channels at once, not each alone");
  command
      ->add_option("--epochs", a->epochs,
                   "Passes over the training windows, at the most (dlinear: 10, others: 20)")
      ->check(whole(1, 1'000'000));
  command
      ->add_option("--patience", a->patience,
                   "Epochs without a better validation before training stops; 0: never "
                   "(dlinear: 3, others: 5)")
      ->check(whole(0, 1'000'000));
  command->add_option("--batch", a->batch, "Windows in a step (dlinear: 8, others: 32)")
      ->check(whole(1, 1'000'000));
  command
      ->add_option("--learning-rate", a->learning_rate,
                   "The highest, Adam's (dlinear: 1e-4, others: 1e-3)")
      ->check(positive(10));
  command->add_option("--seed", a->seed, "Of parameters, order and dropout")->check(whole(0));
  command->add_option("--seeds", a->seeds, "Trainings of each model, with consecutive seeds")
      ->check(whole(1, 1000));
  command->add_option("--threads", a->threads, "Threads")->check(whole(1, 1024));
  command->callback([=] {
    check_options(*a, *command);
    run(*a);
  });
}

}  // namespace unroll::cli
