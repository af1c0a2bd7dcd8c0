#include <unroll/compare/probes.h>
#include <unroll/compare/tasks.h>
#include <unroll/optim/adam.h>

namespace unroll {

AddingResult train_adding(ModelConfig config, std::int64_t length, std::int64_t steps,
                          std::int64_t batch, double learning_rate, Generator& generator,
                          const OnProgress& progress) {
  const LongRangeTask& adding = long_range_task("adding");
  config.vocabulary = adding.vocabulary;
  config.features = adding.features;
  config.outputs = adding.outputs;
  config.tied = false;
  config.context = std::max(config.context, length);
  const auto model = make_model(config, generator);
  Adam optimizer(model->parameters(), {.learning_rate = learning_rate});
  TrainTask task = train_task(adding, length, batch, 1);
  task.evaluate = {};  // the curve is that of the training error
  const auto draw = task.next;
  std::int64_t drawn = 0;
  task.next = [&](Generator& g) {
    if (progress) progress(static_cast<double>(drawn++) / static_cast<double>(steps));
    return draw(g);
  };
  const TrainResult trained = train(*model, optimizer, task, generator,
                                    {.steps = steps,
                                     .clip_norm = 1.0,
                                     .evaluate_every = std::max<std::int64_t>(1, steps / 20),
                                     .label = ""});
  if (trained.interrupted) fail("adding", "interrupted");
  AddingResult result{.length = length, .steps = steps};
  for (const TrainPoint& point : trained.curve)
    result.curve.emplace_back(point.step, point.train_loss);
  model->eval();
  result.mse = score_task(*model, adding, length, 10, 100, generator).score;
  return result;
}

}  // namespace unroll
