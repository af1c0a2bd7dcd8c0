#include <fmt/format.h>
#include <unroll/compare/compare.h>
#include <unroll/compare/inside.h>
#include <unroll/compare/json_file.h>
#include <unroll/compare/tasks.h>
#include <unroll/io/atomic_file.h>
#include <unroll/io/text.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "options.h"

namespace unroll::cli {
void add_compare(CLI::App& app) {
  auto* command = app.add_subcommand("compare", "Trains models on the same data and measures them");
  const auto options = std::make_shared<CompareOptions>();
  const auto out = std::make_shared<std::string>("comparison");
  auto* text = command->add_option("--text", options->text, "UTF-8 text (default: the GPL-3 here)");
  auto* series = command->add_option("--series", options->series, "CSV with a header");
  text->excludes(series);
  command->add_option("--target", options->target, "Column of the series to forecast")
      ->needs(series);
  std::string tasks;
  for (const LongRangeTask& one : long_range_tasks())
    tasks += fmt::format("{}{}", tasks.empty() ? "" : ", ", one.name);
  auto* task = command
                   ->add_option("--task", options->task,
                                "In place of data, a task with exact answers: " + tasks)
                   ->excludes(text)
                   ->excludes(series);
  command->add_option("--length", options->length, "Length that the task is trained up to")
      ->needs(task)
      ->check(whole(1, 1'000'000));
  command
      ->add_option(
          "--k2", options->k2,
          "Train recurrent models on the text as a stream, gradients going back so many steps")
      ->delimiter(',')
      ->excludes(series)
      ->excludes(task)
      ->check(whole(1, 1'000'000));
  auto* models = command
                     ->add_option("--models", options->models,
                                  "Of rnn, lstm, gru, mingru, minlstm, mamba, rwkv, transformer")
                     ->delimiter(',');
  command->add_option("--parameters", options->parameters, "Parameters of each model")
      ->default_str("200000, or 20000 with --task")
      ->check(whole(1000, 1'000'000'000));
  auto* steps = command->add_option("--steps", options->steps, "Training steps of each model")
                    ->default_str("600, or 2000 with --task; --quick: a tenth")
                    ->check(whole(1));
  command->add_option("--seconds", options->seconds, "Training seconds of each model instead")
      ->check(positive())
      ->excludes(steps);
  command->add_option("--seeds", options->seeds, "Runs of each model")->check(whole(1, 100));
  command->add_option("--threads", options->threads, "Threads")->check(whole(1, 1024));
  command->add_flag("--quick", options->quick, "Everything in under a minute");
  command->add_option("--out", *out, "Folder for results.json and report.html");
  command->callback([=] {
    if (!options->k2.empty() && models->count() == 0) options->models = {"rnn", "lstm", "gru"};
    // Before minutes of work: can the results be kept?
    const OutputFolder folder(*out);
    const nlohmann::json results = compare(*options);
    write_file_atomically(std::filesystem::path(*out) / "results.json",
                          detail::readable(results) + "\n");
    fmt::print("{}\nresults: {}\n", tables(results), *out + "/results.json");
    write_page(std::filesystem::path(*out) / "report.html", report(results));
  });
}

void add_report(CLI::App& app) {
  auto* command =
      app.add_subcommand("report", "Redraws the page of results.json or of inside.json");
  const auto file = std::make_shared<std::string>();
  const auto out = std::make_shared<std::string>();
  command->add_option("results", *file, "results.json of compare, or inside.json of inspect")
      ->required();
  command->add_option("--out", *out, "Folder for the page (default: that of the results)");
  command->callback([=] {
    const auto refuse = [&](const std::exception& error) {
      throw DataError(
          error_message("report", fmt::format("'{}': {}", *file, error.what()), nullptr, ""));
    };
    const std::filesystem::path folder =
        out->empty() ? std::filesystem::path(*file).parent_path() : std::filesystem::path(*out);
    std::filesystem::path name = "report.html";
    std::string said, page;  // or refused, before a folder is made
    try {
      const nlohmann::json results = nlohmann::json::parse(read_text(*file));
      if (results.is_object() && results.value("format", "") == "unroll-inside-1") {
        name = std::filesystem::path(*file).filename().replace_extension(".html");
        page = inside_report(results);
      } else {
        said = tables(results) + "\n";
        page = report(results);
      }
    } catch (const nlohmann::json::exception& error) {
      refuse(error);
    } catch (const DataError& error) {
      refuse(error);
    }
    const OutputFolder output(folder.empty() ? "." : folder);
    fmt::print("{}", said);
    write_page(folder / name, page);
  });
}

}  // namespace unroll::cli
