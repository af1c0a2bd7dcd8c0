#pragma once

// A small model, its optimizer and a text to learn.

#include <unroll/ops/loss.h>
#include <unroll/optim/adam.h>
#include <unroll/train/trainer.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace unroll::test {

inline std::vector<std::int64_t> periodic(std::int64_t n) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t i = 0; i < n; ++i) tokens.push_back(i % 5 < 3 ? i % 5 : (i / 5) % 4 + 3);
  return tokens;
}

inline Tensor token_loss(const Tensor& output, const Batch& batch) {
  return cross_entropy(output, batch.y);
}

inline constexpr ModelKind every_kind[] = {
    ModelKind::rnn,     ModelKind::lstm,  ModelKind::gru,  ModelKind::mingru,
    ModelKind::minlstm, ModelKind::mamba, ModelKind::rwkv, ModelKind::transformer};

inline ModelConfig small(ModelKind kind, double dropout = 0) {
  return {.kind = kind,
          .vocabulary = 8,
          .embedding = 12,
          .hidden = 16,
          .layers = 2,
          .heads = 2,
          .context = 32,
          .dropout = dropout};
}

// A model, its optimizer and a task on the periodic text.
struct Setup {
  std::vector<std::int64_t> tokens = periodic(2000);
  Generator generator{11};
  std::unique_ptr<SequenceModel> model;
  std::unique_ptr<AdamW> optimizer;
  RandomWindows windows{tokens, 4, 16};
  ContiguousWindows stream{tokens, 4, 16};
  TrainTask task;

  explicit Setup(const ModelConfig& config, bool carry = false)
      : model(make_model(config, generator)),
        optimizer(std::make_unique<AdamW>(decay_groups(model->named_parameters()),
                                          AdamWOptions{.learning_rate = 1e-2})) {
    task.loss = token_loss;
    task.carry_state = carry;
    task.next = [this, carry](Generator& g) { return carry ? stream.next() : windows.next(g); };
    task.at_start = [this] { return stream.at_start(); };
    task.seek = [this](std::int64_t n) { stream.seek(n % stream.batches() * 16); };
    task.evaluate = [this](SequenceModel& m) {
      TrainTask held = task;
      held.next = [this](Generator& g) { return windows.next(g); };
      return mean_loss(m, held, Generator(3), 4);
    };
  }
  TrainResult run(TrainOptions options) {
    options.label.clear();
    return train(*model, *optimizer, task, generator, options);
  }
};

}  // namespace unroll::test
