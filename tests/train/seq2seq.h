#pragma once

// Small encoder-decoders of every kind, and a batch for them with unequal lengths.

#include <unroll/train/pairs.h>
#include <unroll/train/seq2seq.h>

#include <memory>
#include <string>
#include <vector>

namespace unroll::test {

inline constexpr std::int64_t source_symbols = 9, target_symbols = 8;

struct NamedConfig {
  std::string name;
  Seq2SeqConfig config;
};

inline std::vector<NamedConfig> seq2seq_configs(int layers = 2, double dropout = 0) {
  std::vector<NamedConfig> all;
  const Seq2SeqConfig base{.source_vocabulary = source_symbols,
                           .target_vocabulary = target_symbols,
                           .embedding = 5,
                           .hidden = 6,
                           .layers = layers,
                           .heads = 2,
                           .dropout = dropout};
  for (const ModelKind kind : {ModelKind::rnn, ModelKind::lstm, ModelKind::gru})
    for (const AttentionScore score :
         {AttentionScore::additive, AttentionScore::general, AttentionScore::dot}) {
      all.push_back({std::string(to_string(kind)) + " " + to_string(score), base});
      all.back().config.kind = kind;
      all.back().config.attention = score;
    }
  all.push_back({"transformer", base});
  all.back().config.kind = ModelKind::transformer;
  return all;
}

inline std::unique_ptr<Seq2Seq> make(const Seq2SeqConfig& config, DType dtype = DType::f64) {
  Generator generator(3);
  auto model = make_seq2seq(config, generator);
  model->to(dtype);
  return model;
}

inline std::vector<SequencePair> some_pairs() {
  return {{{4, 5, 6}, {7, 4}}, {{8, 4, 5, 7, 6}, {5, 6, 7, 4}}, {{7}, {6, 5, 6}}};
}

}  // namespace unroll::test
