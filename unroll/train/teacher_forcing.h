#pragma once

#include <unroll/optim/schedule.h>
#include <unroll/train/pairs.h>
#include <unroll/train/seq2seq.h>

namespace unroll {

/// How likely a decoder reads the right symbol, not its own prediction, by training step
/// (Bengio, Vinyals, Jaitly, Shazeer, "Scheduled sampling for sequence prediction with recurrent
/// neural networks", 2015). Always 1 is teacher forcing, always 0 runs free.
namespace teacher {

/// max(floor, offset - slope * step)
struct Linear {
  double floor = 0, offset = 1, slope = 0;
};

// All throw Error for what gives no probability.

Schedule constant(double probability);
Schedule linear(const Linear& options);
/// k / (k + exp(step / k)) for k >= 1.
Schedule inverse_sigmoid(double k);
/// The k with which the inverse sigmoid is 1/2 at this step: k log k = step.
double inverse_sigmoid_k(double half);

}  // namespace teacher

struct SamplingOptions {
  double teacher = 1;  ///< how likely the right symbol is read
  /// The predictions are those of one teacher-forced pass over all steps (Mihaylova, Martins,
  /// "Scheduled sampling for Transformers", 2019): two passes in parallel in place of one step
  /// after the other, and a prediction is not one behind earlier predictions.
  bool two_pass = false;
};

/// What a decoder reads in training: inputs [T, B] (PairBatch), in which every symbol but the first
/// is, with probability 1 - teacher and for each on its own, the one that the model holds most
/// likely there, having read what stands before it. Predictions are made without dropout and are
/// constants. A pass over the result gives the values and gradients of a loop that predicts as it
/// goes, and runs through scan or in parallel. The draws depend on the shape of `inputs` alone;
/// with teacher 1 there are none.
Tensor scheduled_inputs(Seq2Seq& model, const Decoding& start, const Tensor& inputs,
                        const SamplingOptions& options, Generator& generator);

struct Seq2SeqLossOptions {
  SamplingOptions sampling = {};
  double label_smoothing = 0;
};

/// The mean cross entropy over a batch's symbols, recorded.
Tensor seq2seq_loss(Seq2Seq& model, const PairBatch& batch, Generator& generator,
                    const Seq2SeqLossOptions& options = {});

/// How right a model is behind right symbols and behind its own, by target length.
struct ExposurePoint {
  std::int64_t shortest = 0, longest = 0;  ///< symbols of the targets, </s> included
  std::int64_t sequences = 0, symbols = 0;
  double teacher_forced = 0;  ///< share of right symbols, each behind the right ones
  double free_running = 0;    ///< the same, each behind the model's own
  double exact = 0;           ///< share of sequences, run freely, with every symbol right
  double gap() const { return teacher_forced - free_running; }
};

/// Points of `per_point` neighbouring target lengths, then one of all together. A symbol is right
/// where it stands at its place: one that is left out makes all behind it wrong. In evaluation
/// mode. Throws Error where there are no pairs.
std::vector<ExposurePoint> measure_exposure(Seq2Seq& model, std::span<const SequencePair> pairs,
                                            std::int64_t batch, std::int64_t per_point);

/// The mean loss of a symbol, teacher-forced, in evaluation mode.
double mean_symbol_loss(Seq2Seq& model, std::span<const SequencePair> pairs, std::int64_t batch);

}  // namespace unroll
