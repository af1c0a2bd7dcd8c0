// An encoder-decoder in a folder.

#include <unroll/io/safetensors.h>
#include <unroll/train/translator.h>

#include <nlohmann/json.hpp>

#include "../catch.h"
#include "../io/files.h"
#include "../tensors.h"

using namespace unroll;

namespace {

Translator small(ModelKind kind) {
  const std::vector<std::string> from{"eins zwei drei", "vier fünf"}, to{"one two three"};
  Translator t{.config = {.kind = kind, .embedding = 6, .hidden = 8, .layers = 2, .heads = 2},
               .source = TokenVocabulary(from, Tokenization::words),
               .target = TokenVocabulary(to, Tokenization::characters),
               .model = nullptr};
  t.config.source_vocabulary = t.source.size();
  t.config.target_vocabulary = t.target.size();
  Generator generator(4);
  t.model = make_seq2seq(t.config, generator);
  return t;
}

}  // namespace

TEST_CASE("a translator is saved and loaded, and says the same") {
  for (const ModelKind kind : {ModelKind::lstm, ModelKind::transformer}) {
    CAPTURE(to_string(kind));
    const TemporaryDirectory folder;
    Translator one = small(kind);
    save_translator(folder / "model", one);
    Translator two = load_translator(folder / "model");
    CHECK(same_bits(one.model->state_dict(), two.model->state_dict()));
    CHECK(one.target.tokens() == two.target.tokens());
    const std::vector<std::string> lines{"eins zwei", "", "drei unbekannt vier fünf", "zwei"};
    const SearchOptions options{.beam = 3, .max_length = 7};
    const auto all = translate_lines(one, lines, options, 2);
    CHECK(all == translate_lines(two, lines, options, 64));
    REQUIRE(all.size() == 4);
    CHECK(all[1].empty());
    for (std::size_t i = 0; i < lines.size(); ++i)  // in their order
      CHECK(all[i] == translate_lines(two, std::span(lines).subspan(i, 1), options)[0]);
  }
}

TEST_CASE("a damaged translator is refused") {
  const TemporaryDirectory folder;
  const auto model = folder / "model";
  save_translator(model, small(ModelKind::gru));
  const std::string good = read_plainly(model / "config.json");
  const auto changed = [&](const auto& change) {
    nlohmann::json json = nlohmann::json::parse(good);
    change(json);
    write_plainly(model / "config.json", json.dump());
    return message_of<DataError>([&] { load_translator(model); });
  };
  CHECK(has(changed([](auto& j) { j["format"] = "unroll-model-1"; }), "not of an encoder-decoder"));
  CHECK(has(changed([](auto& j) { j["model"]["kind"] = "cnn"; }), "cnn"));
  CHECK(has(changed([](auto& j) { j["model"]["kind"] = "mamba"; }), "rnn, lstm, gru, transformer"));
  CHECK(has(changed([](auto& j) { j["model"]["attention"] = "cosine"; }), "cosine"));
  CHECK(has(changed([](auto& j) { j["model"].erase("hidden"); }), "hidden"));
  CHECK(has(changed([](auto& j) { j["model"]["hidden"] = -8; }), "hidden is -8"));
  CHECK(has(changed([](auto& j) { j["model"]["hidden"] = 1 << 20; }), "parameters"));
  CHECK(has(changed([](auto& j) { j["model"]["hidden"] = 6; }), "weight"));
  CHECK(has(changed([](auto& j) { j["source"]["tokens"].push_back("sechs"); }), "symbols"));
  write_plainly(model / "config.json", "{");
  CHECK(has(message_of<DataError>([&] { load_translator(model); }), "parse error"));
  write_plainly(model / "config.json", good);
  std::filesystem::remove(model / "model.safetensors");
  CHECK_THROWS_AS(load_translator(model), DataError);
}
