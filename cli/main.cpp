#include <unroll/graph/error.h>

#include <cstdio>

#include "commands.h"

// NOLINTNEXTLINE(bugprone-exception-escape): only where there is no memory for an error message
int main(int argc, char** argv) {
  CLI::App app{"Unroll: recurrent models and Transformers on one tape"};
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  unroll::cli::add_compare(app);
  unroll::cli::add_report(app);
  unroll::cli::add_train(app);
  unroll::cli::add_evaluate(app);
  unroll::cli::add_generate(app);
  unroll::cli::add_seq2seq(app);
  unroll::cli::add_translate(app);
  unroll::cli::add_forecast(app);
  unroll::cli::add_inspect(app);
  unroll::cli::add_ops(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "unroll: %s\n", error.what());
    return 1;
  }
  return 0;
}
