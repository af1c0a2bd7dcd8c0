#include "model_text.h"

#include <unroll/io/text.h>

#include <cmath>

#include "options.h"

namespace unroll::cli {

void add_model_text(CLI::App& command, ModelTextArguments& a) {
  command.add_option("--model-dir", a.folder, "Folder of config.json and model.safetensors")
      ->required();
  command.add_option("--text", a.text, "UTF-8 text")->required();
  command.add_option("--last", a.part, "Only this last share of it (0.1: what train held out)")
      ->check(positive(1));
}

ModelText load_model_text(const ModelTextArguments& a) {
  ModelText result{load_model(a.folder), {}};
  result.tokens = result.model.vocabulary.encode(read_text(a.text));
  const auto count = std::llround(a.part * static_cast<double>(result.tokens.size()));
  result.tokens.erase(result.tokens.begin(), result.tokens.end() - count);
  return result;
}

}  // namespace unroll::cli
