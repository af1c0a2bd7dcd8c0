// The program as a user runs it.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "../catch.h"
#include "../io/files.h"
#include "program.h"

using namespace unroll::test;

TEST_CASE("compare --quick writes results and a report, which can be redrawn", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto text = write_plainly(folder / "text.txt", prose(1500));
  const auto out = folder / "out";
  const std::string models = "rnn,lstm,gru,mingru,minlstm,mamba,rwkv,transformer";
  const Run run = program("compare --quick --parameters 20000 --models " + models + " --text" +
                          quoted(text) + "--out" + quoted(out));
  CAPTURE(run.text);
  REQUIRE(run.code == 0);
  const nlohmann::json results = nlohmann::json::parse(read_plainly(out / "results.json"));
  CHECK(results.at("format") == "unroll-results-1");
  CHECK(results.at("models").size() == 8);
  for (const auto& model : results.at("models")) {
    CHECK(model.at("inside").at("model").at("kind") == model.at("name"));
    CHECK(model.at("inside").at("gradient_flow").size() ==
          model.at("layers").get<std::size_t>() + 1);
  }
  const std::string page = read_plainly(out / "report.html");
  CHECK(has(page, "unroll-results-1"));
  for (const char* name : {"rnn", "lstm", "gru", "transformer"}) CHECK(has(run.text, name));

  const Run again =
      program("report" + quoted(out / "results.json") + "--out" + quoted(folder / "again"));
  CAPTURE(again.text);
  CHECK(again.code == 0);
  CHECK(read_plainly(folder / "again/report.html") == page);
  write_plainly(out / "results.json", "{\"format\": \"unroll-results-1\"}");
  const Run damaged =
      program("report" + quoted(out / "results.json") + "--out" + quoted(folder / "damaged"));
  CHECK(damaged.code != 0);
  CHECK(has(damaged.text, "results"));
  CHECK(!std::filesystem::exists(folder / "damaged/report.html"));
}

TEST_CASE("compare --task and --k2 show what they measure", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto results_of = [&](const std::string& arguments, const char* name) {
    const Run run = program("compare --quick --parameters 4000 --steps 4" + arguments + " --out" +
                            quoted(folder / name));
    CAPTURE(arguments, run.text);
    REQUIRE(run.code == 0);
    REQUIRE(has(read_plainly(folder / name / "report.html"), "unroll-results-1"));
    return std::pair(nlohmann::json::parse(read_plainly(folder / name / "results.json")), run.text);
  };
  const auto [task, shown] =
      results_of(" --task parity --length 6 --seeds 2 --models lstm,transformer", "task");
  CHECK(task.at("task").at("source") == "parity");
  CHECK(task.at("settings").at("context") == 6);
  const nlohmann::json& lengths = task.at("probes").at("lengths");
  CHECK(lengths.at("trained") == 6);
  CHECK(lengths.at("points").size() == 2 * 2 * 3);  // models, seeds, lengths
  CHECK(lengths.at("points").back().at("length") == 24);
  for (const nlohmann::json& one : lengths.at("baselines")) CHECK(one.at("score") == 0.5);
  CHECK(has(shown, "accuracy by length (bits), trained up to 6"));
  CHECK(has(shown, "guessing"));
  for (const char* name : {"adding", "copy", "selective-copy", "recall", "induction"})
    results_of(std::string(" --models gru --task ") + name, name);

  const auto text = write_plainly(folder / "text.txt", prose(1500));
  const auto [k2, table] = results_of(" --k2 2,5 --text" + quoted(text), "k2");
  const nlohmann::json& truncation = k2.at("probes").at("truncation");
  CHECK(truncation.at("k1") == 2);
  REQUIRE(truncation.at("points").size() == 3 * 2);
  CHECK(truncation.at("points")[1].at("k2") == 5);
  CHECK(truncation.at("points")[1].at("loss") == k2.at("models")[1].at("best_loss"));
  CHECK(has(table, "k1 = 2"));
}

TEST_CASE("every kind of model is trained and continues a text", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto text = write_plainly(folder / "text.txt", prose(400));
  for (const char* kind : {"mingru", "minlstm", "mamba", "rwkv"}) {
    CAPTURE(kind);
    const auto model = folder / kind;
    const Run trained = program(std::string("train --hidden 16 --layers 2 --context 16 --steps 5 "
                                            "--evaluation-batches 2 --model ") +
                                kind + " --text" + quoted(text) + "--out" + quoted(model));
    CAPTURE(trained.text);
    CHECK(trained.code == 0);
    const Run generated = program("generate --count 12 --model-dir" + quoted(model));
    CAPTURE(generated.text);
    CHECK(generated.code == 0);
    CHECK(generated.text.size() >= 12);
  }
}

TEST_CASE("train, evaluate, generate, resume", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto text = write_plainly(folder / "text.txt", prose(400));
  const auto model = folder / "model";
  const std::string train =
      "train --model gru --hidden 24 --embedding 12 --layers 1 --context 16 "
      "--evaluate-every 20 --evaluation-batches 5 --warmup 5 --text" +
      quoted(text) + "--out" + quoted(model);
  Run run = program(train + "--steps 40");
  CAPTURE(run.text);
  REQUIRE(run.code == 0);
  CHECK(has(run.text, "validation"));
  for (const char* file :
       {"config.json", "model.safetensors", "log.jsonl", "checkpoint.safetensors"})
    CHECK(std::filesystem::exists(model / file));

  run = program("evaluate --batches 5 --context 16 --model-dir" + quoted(model) + "--text" +
                quoted(text));
  CHECK(run.code == 0);
  CHECK(has(run.text, "nats per character"));

  const std::string generate =
      "generate --count 20 --temperature 0 --prompt 'the ' --model-dir" + quoted(model);
  run = program(generate);
  CHECK(run.code == 0);
  CHECK(run.text.starts_with("the "));
  CHECK(run.text.size() == 4 + 20 + 1);
  CHECK(program(generate).text == run.text);

  // Another text of the same characters.
  std::string turned = prose(400);
  std::reverse(turned.begin(), turned.end());
  const auto other = write_plainly(folder / "other.txt", turned);
  const std::string saved = read_plainly(model / "model.safetensors");
  run = program(
      "train --model gru --hidden 24 --embedding 12 --layers 1 --context 16 --steps 60 --resume "
      "--text" +
      quoted(other) + "--out" + quoted(model));
  CHECK(run.code != 0);
  CHECK(has(run.text, "another text"));
  CHECK(read_plainly(model / "model.safetensors") == saved);

  run = program(train + "--steps 60 --resume");
  CHECK(run.code == 0);
  CHECK(has(run.text, "step     60"));
  run = program("generate --prompt '#' --model-dir" + quoted(model));
  CHECK(run.code != 0);
  CHECK(has(run.text, "#"));
}

TEST_CASE("wrong input: a message that names it, a code that is not 0, no files", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto good = write_plainly(folder / "good.txt", prose(400));
  const auto empty = write_plainly(folder / "empty.txt", "");
  const auto latin = write_plainly(folder / "latin.txt", prose(100) + "caf\xe9" + prose(100));
  const auto tiny = write_plainly(folder / "tiny.txt", "too short");
  const auto series = write_plainly(folder / "series.csv", "a,b\n1,2\n3,x\n");
  std::string numbers = "a,b\n";
  for (int i = 0; i < 1000; ++i) numbers += "1,1e300\n";
  const auto large = write_plainly(folder / "large.csv", numbers);
  struct Wrong {
    std::string arguments;
    const char* named;
  };
  const std::string text = " --text";
  std::vector<Wrong> all;
  for (const char* name : {"train --steps 2", "compare --quick"}) {
    const std::string command = name;
    for (const Wrong& one : std::initializer_list<Wrong>{
             {command + text + quoted(folder / "missing.txt"), "missing.txt"},
             {command + text + quoted(empty), "empty"},
             {command + text + quoted(latin), "UTF-8"},
             {command + text + quoted(tiny), "short"},
             {command + text + quoted(folder.path()), "directory"},
         })
      all.push_back(one);
  }
  all.push_back({"train --model perceptron" + text + quoted(good), "perceptron"});
  all.push_back({"compare --models lstm,perceptron" + text + quoted(good), "perceptron"});
  all.push_back({"train --steps -5" + text + quoted(good), "--steps"});
  all.push_back(
      {"compare --quick --models lstm,gru,lstm" + text + quoted(good), "'lstm' is named"});
  all.push_back({"compare --steps -5" + text + quoted(good), "--steps"});
  all.push_back({"train --steps many" + text + quoted(good), "--steps"});
  all.push_back({"train --hidden -3 --steps 2" + text + quoted(good), "hidden"});
  all.push_back({"train --recipe best" + text + quoted(good), "best"});
  for (const char* fixed : {"--context", "--batch", "--hidden"})
    all.push_back({std::string("train --recipe nanogpt-cpu ") + fixed + " 8" + text + quoted(good),
                   "excludes"});
  all.push_back({"train --clip -1" + text + quoted(good), "'-1' is not a number of 0"});
  all.push_back({"train --precision f16" + text + quoted(good), "bf16"});
  all.push_back({"train --nonsense 1" + text + quoted(good), "--nonsense"});
  all.push_back({"train", "--text"});
  all.push_back({"train --learning-rate nan" + text + quoted(good), "'nan' is not a number above"});
  all.push_back({"train --clip nan" + text + quoted(good), "'nan'"});
  all.push_back({"train --steps 99999999999999999999" + text + quoted(good), "whole number"});
  all.push_back({"train --context 99999999" + text + quoted(good), "from 1 to 16777216"});
  all.push_back({"train --parameters 9223372036854775807" + text + quoted(good), "parameters"});
  all.push_back({"train --hidden 16777216" + text + quoted(good), "parameters"});
  all.push_back({"train --model transformer --hidden 30" + text + quoted(good), "4 heads"});
  all.push_back({"train --batch 4611686018427387904" + text + quoted(good), "too few"});
  all.push_back({"compare --seconds nan" + text + quoted(good), "--seconds"});
  all.push_back({"compare --quick --target b --series" + quoted(series), "x"});
  all.push_back({"compare --quick --target c --series" + quoted(series), "c"});
  all.push_back({"compare --quick --models gru --series" + quoted(large), "column 'b'"});
  all.push_back({"compare --task juggling", "selective-copy"});
  all.push_back({"compare --task parity" + text + quoted(good), "excludes"});
  all.push_back({"compare --task recall --length 17", "from 1 to 16"});
  all.push_back({"compare --task parity --k2 4", "excludes"});
  all.push_back({"compare --length 4" + text + quoted(good), "--task"});
  all.push_back({"compare --k2 4,8,4" + text + quoted(good), "k2 4"});
  all.push_back({"compare --k2 0" + text + quoted(good), "--k2"});
  all.push_back({"compare --k2 4 --models transformer" + text + quoted(good), "grows"});
  all.push_back({"train --k2 4" + text + quoted(good), "--carry-state"});
  all.push_back({"train --gradient-noise -1" + text + quoted(good), "'-1'"});
  std::string rows = "a,b\n";
  for (int i = 0; i < 300; ++i) rows += "1,2\n";
  const auto brief = write_plainly(folder / "brief.csv", rows);
  all.push_back({"compare --quick --series" + quoted(brief), "need 481"});
  const auto out = folder / "out";
  const std::ptrdiff_t files = folder.files();
  for (const Wrong& one : all) {
    const Run run = program(one.arguments + " --out" + quoted(out));
    CAPTURE(one.arguments, run.text);
    CHECK(run.code > 0);
    CHECK(run.code < 1000);  // it ended by itself
    CHECK(has(run.text, one.named));
    CHECK(folder.files() == files);
  }
  for (const char* share : {"0", "1.5", "nan"})
    CHECK(has(program("evaluate --model-dir /nowhere --last " + (share + text) + quoted(good)).text,
              "is not a number above 0, up to 1"));
  for (const std::string& arguments :
       {"evaluate --model-dir /nowhere" + text + quoted(good), std::string("nonsense"),
        std::string("generate --model-dir /nowhere"), std::string("report /nowhere.json"),
        std::string(), "report" + quoted(good)}) {
    const Run run = program(arguments);
    CAPTURE(arguments, run.text);
    CHECK(run.code > 0);
    CHECK(run.code < 1000);
    CHECK(!run.text.empty());
  }
}

TEST_CASE("seq2seq trains on pairs and measures, translate uses what it wrote", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const std::string quick = "seq2seq --hidden 16 --batch 8 --evaluate-every 4 --warmup 2 ";
  const Run task = program(quick +
                           "--task dates --train-pairs 200 --test-pairs 40 --steps 6 --seeds 2 "
                           "--sampling teacher,linear --out" +
                           quoted(folder / "task"));
  CAPTURE(task.text);
  REQUIRE(task.code == 0);
  CHECK(has(task.text, "behind its own"));
  const auto results = nlohmann::json::parse(read_plainly(folder / "task/results.json"));
  REQUIRE(results.at("runs").size() == 4);
  CHECK(results.at("runs")[3].at("sampling") == "linear");
  CHECK(results.at("runs")[0].at("points").back().at("symbols") == 40 * 11);
  for (const char* name : {"teacher-1", "teacher-2", "linear-1", "linear-2"})
    CHECK(std::filesystem::exists(folder / "task" / name / "model.safetensors"));

  std::string from, to;
  for (int i = 0; i < 60; ++i) {
    from += i % 2 == 0 ? "eins zwei!\n" : "drei.\n";
    to += i % 2 == 0 ? "one two!\n" : "three.\n";
  }
  const auto source = write_plainly(folder / "from.txt", from);
  const auto target = write_plainly(folder / "to.txt", to);
  const std::string files = quoted(source) + quoted(target);
  for (const std::string model : {"gru --attention dot --embedding 8", "transformer --heads 2"}) {
    const Run run =
        program(quick + "--steps 150 --learning-rate 0.01 --train" + files + "--valid" + files +
                "--test" + files + "--model " + model + " --out" + quoted(folder / model));
    CAPTURE(run.text);
    REQUIRE(run.code == 0);
    CHECK(has(run.text, "BLEU"));
    const Run found =
        program("translate --model-dir" + quoted(folder / model) + "--text" + quoted(source));
    CAPTURE(found.text);
    CHECK(found.code == 0);
    CHECK(found.text.starts_with("one two !\nthree .\none two !\n"));
  }
  write_plainly(target, "one\n");
  const Run unequal = program("seq2seq --train" + files + "--out" + quoted(folder / "none"));
  CHECK(unequal.code == 1);
  CHECK(has(unequal.text, "60 lines"));
}

TEST_CASE("a folder that cannot be written is said before the work, not behind it", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto text = write_plainly(folder / "text.txt", prose(400));
  for (const std::filesystem::path& out :
       {std::filesystem::path("/proc/none"), std::filesystem::path("/proc"), text, text / "below"})
    for (const char* command : {"train --steps 100000000", "compare --steps 100000000"}) {
      const Run run =
          program(command + std::string(" --text") + quoted(text) + "--out" + quoted(out));
      CAPTURE(command, out.string(), run.text);
      CHECK(run.code > 0);
      CHECK(has(run.text, out.string()));
    }
  CHECK(folder.files() == 1);
}

TEST_CASE("a file's name may be any bytes", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  const auto text = write_plainly(folder / "caf\xe9.txt", prose(400));
  const Run run = program("compare --quick --steps 7 --models rnn --parameters 4000 --text" +
                          quoted(text) + "--out" + quoted(folder / "out"));
  CAPTURE(run.text);
  CHECK(run.code == 0);
  CHECK(folder.files() == 2);
  const auto results = nlohmann::json::parse(read_plainly(folder / "out/results.json"));
  CHECK(results.at("settings").at("steps") == 7);
  CHECK(results.at("models").at(0).at("runs").at(0).at("steps") == 7);
}

TEST_CASE("help and the list of ops", "[slow]") {
  if (!available()) return;
  CHECK(program("--help").code == 0);
  CHECK(has(program("--help").text, "compare"));
  const Run ops = program("ops");
  CHECK(ops.code == 0);
  CHECK(has(ops.text, "matmul"));
}

TEST_CASE("forecast prints naive forecasts, DLinear and a model", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  std::string text = "hour,load\n";
  for (int t = 0; t < 400; ++t)
    text += std::to_string(t) + "," + std::to_string((t * 37 + t * t * 11) % 24) + "\n";
  const auto series = write_plainly(folder / "load.csv", text);
  const std::string base =
      "forecast --columns load --look-back 48 --horizon 12 --series" + quoted(series);
  const Run run = program(base + "--models dlinear,gru --parameters 3000 --epochs 2");
  CAPTURE(run.text);
  CHECK(run.code == 0);
  for (const char* row : {"persistence", "seasonal (24)", "dlinear", "gru", "69 test windows"})
    CHECK(has(run.text, row));
  const auto refused = [&](const std::string& arguments, const char* why) {
    const Run bad = program(base + arguments);
    CAPTURE(bad.text);
    CHECK(bad.code == 1);
    CHECK(has(bad.text, why));
  };
  refused("--models oracle", "no model is named 'oracle'");
  refused("--split 300,50", "--split with 2 numbers");
  refused("--split 300,50,100", "300, 50 and 100 rows of 400");
  refused("--kernel 4", "moving average over 4 steps");
}

TEST_CASE("inspect looks into what train saved", "[slow]") {
  if (!available()) return;
  const TemporaryDirectory folder;
  write_plainly(folder / "text.txt", prose(400));
  const std::string text = " --text" + quoted(folder / "text.txt");
  for (const std::string model : {"gru", "mamba", "transformer"}) {
    CAPTURE(model);
    REQUIRE(program("train --model " + model + " --parameters 8000 --steps 20 " + text + "--out" +
                    quoted(folder / model))
                .code == 0);
    const Run run =
        program("inspect --steps 12 --context 8 --windows 16" +
                std::string(model == "transformer" ? "" : " --jacobians 2") + text + "--model-dir" +
                quoted(folder / model) + "--out" + quoted(folder / "inside.json"));
    INFO(run.text);
    REQUIRE(run.code == 0);
    const auto inside = nlohmann::json::parse(read_plainly(folder / "inside.json"));
    CHECK(inside.at("text").size() == 12);
    CHECK(inside.at("gradient_flow")[0].at("last").size() == 12);
    CHECK(inside.at("effective_context").size() == 4);  // 1, 2, 4, 8
    CHECK(inside.contains("gates") == (model != "transformer"));
    CHECK(inside.contains("jacobian") == (model != "transformer"));
    CHECK(inside.contains("attention") == (model == "transformer"));
    const std::string page = read_plainly(folder / "inside.html");
    CHECK(has(page, "unroll-inside-1"));
    const Run again =
        program("report" + quoted(folder / "inside.json") + "--out" + quoted(folder / "again"));
    CHECK(again.code == 0);
    CHECK(read_plainly(folder / "again/inside.html") == page);
  }
  write_plainly(folder / "inside.json", R"({"format": "unroll-inside-1"})");
  const Run damaged =
      program("report" + quoted(folder / "inside.json") + "--out" + quoted(folder / "damaged"));
  CHECK(damaged.code == 1);
  CHECK(has(damaged.text, "docs/inside.md"));
  CHECK(!std::filesystem::exists(folder / "damaged"));
  const Run same = program("inspect " + text + "--model-dir" + quoted(folder / "gru") + "--out" +
                           quoted(folder / "inside.html"));
  CHECK(same.code == 1);
  CHECK(has(same.text, "where the page goes"));
}
