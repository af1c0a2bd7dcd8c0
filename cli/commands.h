#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace unroll::cli {

/// Each adds one subcommand and says what it does when chosen.
void add_compare(CLI::App& app);
void add_report(CLI::App& app);
void add_train(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_generate(CLI::App& app);
void add_seq2seq(CLI::App& app);
void add_translate(CLI::App& app);
void add_forecast(CLI::App& app);
void add_inspect(CLI::App& app);
void add_ops(CLI::App& app);

}  // namespace unroll::cli
