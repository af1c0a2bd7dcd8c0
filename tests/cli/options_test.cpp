// Options that would be ignored, cut down or write over something are refused, with what to do.

#include <nlohmann/json.hpp>
#include <string>

#include "../catch.h"
#include "../io/files.h"
#include "program.h"

using namespace unroll::test;

namespace {

// Ends by itself with an error that says `why`, and leaves `folder` as it was.
void refused(const TemporaryDirectory& folder, const std::string& arguments,
             std::initializer_list<const char*> why) {
  const std::ptrdiff_t files = folder.files();
  const Run run = program(arguments);
  CAPTURE(arguments, run.text);
  CHECK(run.code > 0);
  CHECK(run.code < 1000);
  for (const char* one : why) CHECK(has(run.text, one));
  CHECK(folder.files() == files);
}

}  // namespace

TEST_CASE("train resumes from a checkpoint alone, and writes over no other model", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto text = write_plainly(folder / "text.txt", prose(400));
  const auto other = write_plainly(folder / "other.txt", prose(410));
  const auto letters = write_plainly(folder / "letters.txt", prose(400) + "xyz");
  const auto model = folder / "model";
  const std::string rest = " --context 16 --steps 4 --evaluation-batches 2 ";
  const std::string own = "--model gru --hidden 8 --embedding 8 --layers 1 ";
  const auto train = [&](const std::string& what, const std::filesystem::path& read) {
    return "train " + what + rest + "--text" + quoted(read) + "--out" + quoted(model);
  };
  refused(folder, train(own + "--resume", text), {"no checkpoint", "model", "--resume"});
  REQUIRE(program(train(own, text)).code == 0);
  const std::string saved = read_plainly(model / "model.safetensors");
  refused(folder, train(own, other), {"another text", "--out"});
  for (int i = 0; i < 2; ++i) {  // by the checkpoint too, then by config.json alone
    refused(folder, train("--model lstm --hidden 8 --embedding 8 --layers 1 ", text),
            {"another model", "kind is \"gru\" there and \"lstm\" here", "--out"});
    refused(folder, train("--model gru --hidden 9 --embedding 8 --layers 1 ", text),
            {"another model: hidden is 8 there and 9 here", "--out"});
    refused(folder, train(own, letters), {"another", "--out"});
    std::filesystem::remove(model / "checkpoint.safetensors");
  }
  CHECK(read_plainly(model / "model.safetensors") == saved);
  CHECK(program(train(own + "--seed 2", text)).code == 0);  // the same run once more
  CHECK(read_plainly(model / "model.safetensors") != saved);
  const Run resumed = program(train(own + "--resume --learning-rate 0.25", text));
  CHECK(resumed.code == 0);
  CHECK(has(resumed.text, "learning rate 0.25"));

  const std::string pairs =
      "seq2seq --hidden 8 --train-pairs 20 --test-pairs 4 --steps 2 --task dates ";
  refused(folder, pairs + "--out" + quoted(model), {"another model", "--out"});
  refused(folder, pairs + "--resume --out" + quoted(folder / "none"), {"no checkpoint"});
  REQUIRE(program(pairs + "--seeds 2 --out" + quoted(folder / "runs")).code == 0);
  refused(folder, pairs + "--seeds 2 --layers 2 --out" + quoted(folder / "runs"),
          {"another model", "teacher-1"});
  std::filesystem::remove_all(folder / "runs/teacher-2");  // interrupted before
  CHECK(program(pairs + "--seeds 2 --resume --out" + quoted(folder / "runs")).code == 0);
  CHECK(std::filesystem::exists(folder / "runs/teacher-2/model.safetensors"));
}

TEST_CASE("options that would do nothing or less than they say are refused", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto text = write_plainly(folder / "text.txt", prose(400));
  const std::string out = " --out" + quoted(folder / "out");
  const std::string train = "train --steps 5 --text" + quoted(text) + out;
  refused(folder, train + "--model gru --heads 2", {"--heads does nothing", "gru"});
  refused(folder, train + "--model mamba --embedding 8", {"--embedding does nothing", "mamba"});
  refused(folder, train + "--model lstm --layers 1 --dropout 0.1", {"--dropout", "one layer"});
  refused(folder, train + "--hidden 8 --parameters 9000", {"excludes"});
  refused(folder, train + "--seed -1", {"'-1' is not a whole number of 0 or more"});
  refused(folder, train + "--warmup 5", {"warm-up of 5 steps in 5"});

  const std::string task = "seq2seq --task dates --steps 5" + out;
  for (const char* model : {"mamba", "rwkv", "mingru", "minlstm"})
    refused(folder, task + "--model " + model, {model, "Known: rnn, lstm, gru, transformer"});
  refused(folder, task + "--heads 2", {"--heads does nothing"});
  refused(folder, task + "--model transformer --attention dot", {"--attention does nothing"});
  refused(folder, task + "--model transformer --embedding 8", {"--embedding does nothing"});
  refused(folder, task + "--teacher 0.5", {"--teacher does nothing", "constant"});
  refused(folder, task + "--sampling sigmoid --floor 0.5", {"--floor does nothing", "linear"});
  refused(folder, task + "--beam 3", {"--beam does nothing", "--test"});
  refused(folder, task + "--max-length 9", {"--max-length does nothing"});
  refused(folder, task + "--sampling linear,linear", {"named twice"});
  refused(folder, task + "--warmup 9", {"warm-up of 9 steps in 5"});
  refused(folder, "translate --beam 1 --length-penalty 1 --model-dir /nowhere",
          {"--length-penalty does nothing"});

  std::string rows = "hour,load\n";
  for (int t = 0; t < 400; ++t)
    rows += std::to_string(t) + "," + std::to_string(t * 37 % 24) + "\n";
  const auto series = write_plainly(folder / "load.csv", rows);
  const std::string forecast =
      "forecast --columns load --look-back 48 --horizon 12 --series" + quoted(series);
  refused(folder, forecast + "--models gru --patch 49", {"patches of 49 rows of 48"});
  refused(folder, forecast + "--models gru --kernel 5", {"--kernel does nothing"});
  refused(folder, forecast + "--models dlinear --layers 2", {"--layers does nothing", "dlinear"});
  refused(folder, forecast + "--models dlinear --mix-channels", {"--mix-channels does nothing"});
  refused(folder, forecast + "--period 49", {"season of 49 steps in a look-back of 48"});
  refused(folder, forecast + "--models gru,gru", {"named twice"});
  const Run brief = program(  // the usual patch gives way to a shorter look-back
      "forecast --columns load --look-back 10 --horizon 2 --models gru --parameters 3000 --epochs "
      "1 "
      "--series" +
      quoted(series));
  CAPTURE(brief.text);
  CHECK(brief.code == 0);
}

TEST_CASE("inspect asks no more of a model than it can read", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const std::string text = " --text" + quoted(write_plainly(folder / "text.txt", prose(400)));
  const auto inspect = [&](const char* model) {
    return "inspect --windows 8" + text + "--model-dir" + quoted(folder / model) + "--out" +
           quoted(folder / "inside.json");
  };
  REQUIRE(program("train --recipe nanogpt-cpu --model transformer --steps 1 "
                  "--evaluation-batches 1" +
                  text + "--out" + quoted(folder / "gpt"))
              .code == 0);
  // As many characters as its table of positions reaches to, behind a prompt of any length.
  for (const std::string prompt : {"the ", "the cat sat on a mat "}) {
    const Run run =
        program("generate --prompt '" + prompt + "' --model-dir" + quoted(folder / "gpt"));
    CAPTURE(run.text);
    CHECK(run.code == 0);
    CHECK(has(run.text, std::to_string(65 - prompt.size()) + " characters: a context of 64"));
  }
  refused(folder, "generate --count 64 --prompt 'the ' --model-dir" + quoted(folder / "gpt"),
          {"64 symbols after a prompt of 4 pass the model's context of 64"});
  refused(folder, "generate --prompt '#' --model-dir" + quoted(folder / "gpt"),
          {"'#'", "train on a text that has it"});
  refused(folder, inspect("gpt") + "--steps 65", {"65 steps", "64"});
  refused(folder, inspect("gpt") + "--context 65", {"context of 65", "64"});
  refused(folder, inspect("gpt") + "--jacobians 2", {"--jacobians does nothing"});
  refused(folder, inspect("gpt") + "--units 2", {"--units does nothing"});
  const Run run = program(inspect("gpt"));
  CAPTURE(run.text);
  REQUIRE(run.code == 0);
  const auto inside = nlohmann::json::parse(read_plainly(folder / "inside.json"));
  CHECK(inside.at("text").size() == 64);

  REQUIRE(program("train --model rnn --parameters 3000 --steps 1 --evaluation-batches 1" + text +
                  "--out" + quoted(folder / "rnn"))
              .code == 0);
  refused(folder, inspect("rnn") + "--units 2", {"--units does nothing", "rnn"});
  refused(folder, inspect("rnn") + "--steps 12 --jacobians 13", {"13 steps out of 12"});
}
