#pragma once

#include <unroll/layers/module.h>
#include <unroll/optim/optimizer.h>
#include <unroll/optim/schedule.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace unroll {

/// What is to be learned from a finite set of examples, known by their numbers 0 to examples - 1.
struct EpochTask {
  std::int64_t examples = 0;
  /// The loss, one element, on a batch of these examples.
  std::function<Tensor(std::span<const std::int64_t> batch)> loss = {};
  /// What is held out says how good the model is, lower being better; undefined: no evaluation.
  std::function<double()> evaluate = {};
  /// Length of an example; where defined, batches are made of examples of similar length.
  std::function<std::int64_t(std::int64_t example)> length = {};
};

struct EpochPoint {
  int epoch = 0;  ///< counted from 1
  double train_loss = 0;
  double validation = 0;
  double seconds = 0;  ///< of training so far, without evaluation
};

struct EpochOptions {
  int epochs = 10;
  std::int64_t batch = 32;
  double learning_rate = 1e-3;  ///< the highest
  double warmup = 0;            ///< share of all steps; from there on half a cosine down to 0
  /// In place of warm-up and cosine: the share of learning_rate that epoch 1, 2, ... runs at.
  std::function<double(int epoch)> epoch_factor = {};
  double clip_norm = 0;  ///< 0: no clipping
  int patience = 0;      ///< epochs without a better evaluation before stopping; 0: never
  std::function<void(const EpochPoint&)> on_epoch = {};
  std::string label = "train";  ///< of the progress bar; empty: none
};

struct EpochResult {
  std::vector<EpochPoint> curve;
  int best_epoch = 0;
  double best = 0;  ///< the lowest evaluation
  double seconds = 0;
  bool interrupted = false;  ///< Ctrl-C
};

/// The batches of one epoch: every example once, in an order that `generator` draws. With `length`,
/// examples are sorted by it within pools of 50 batches, and the batches then shuffled.
std::vector<std::vector<std::int64_t>> epoch_batches(
    std::int64_t examples, std::int64_t batch,
    const std::function<std::int64_t(std::int64_t)>& length, Generator& generator);

/// Trains `model` in place and leaves it, in evaluation mode, with the parameters of its best
/// epoch (without evaluation: the last). Throws Error naming the epoch where the loss is not
/// finite; the parameters are those before that step.
EpochResult train_epochs(Module& model, Optimizer& optimizer, const EpochTask& task,
                         Generator& generator, const EpochOptions& options);

}  // namespace unroll
