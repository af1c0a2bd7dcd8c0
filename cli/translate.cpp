#include <fmt/format.h>
#include <unroll/graph/threads.h>
#include <unroll/io/text.h>
#include <unroll/train/translator.h>

#include <iostream>
#include <iterator>
#include <memory>

#include "commands.h"
#include "options.h"

namespace unroll::cli {
namespace {

struct Arguments {
  std::string folder, text;
  std::int64_t beam = 5, max_length = 100, batch = 64;
  double length_penalty = 0.6;
  int threads = 1;
};

}  // namespace

void add_translate(CLI::App& app) {
  auto* command = app.add_subcommand("translate", "Runs a model of seq2seq over lines of text");
  const auto a = std::make_shared<Arguments>();
  command->add_option("--model-dir", a->folder, "Folder of config.json and model.safetensors")
      ->required();
  command->add_option("--text", a->text, "UTF-8 text (default: the standard input)");
  command->add_option("--beam", a->beam, "1: greedy")->check(whole(1, 10'000));
  command->add_option("--length-penalty", a->length_penalty)->check(real(0, 10));
  command->add_option("--max-length", a->max_length)->check(whole(1, most_units));
  command->add_option("--batch", a->batch)->check(whole(1, most_units));
  command->add_option("--threads", a->threads)->check(whole(1, 1024));
  command->callback([a, command] {
    only_if(a->beam > 1, *command, {"--length-penalty"}, "without a beam");
    set_threads(a->threads);
    Translator translator = load_translator(a->folder);
    const std::string text = a->text.empty()
                                 ? std::string(std::istreambuf_iterator<char>(std::cin), {})
                                 : read_text(a->text);
    const std::vector<std::string> lines = lines_of(text);
    const auto found = translate_lines(
        translator, lines,
        {.beam = a->beam, .max_length = a->max_length, .length_penalty = a->length_penalty},
        a->batch);
    for (const auto& symbols : found) fmt::print("{}\n", translator.target.decode(symbols));
  });
}

}  // namespace unroll::cli
