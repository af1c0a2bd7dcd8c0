#include <fmt/format.h>
#include <unroll/compare/data.h>
#include <unroll/io/csv.h>
#include <unroll/io/text.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

constexpr const char* default_text = "/usr/share/common-licenses/GPL-3";

std::function<double(SequenceModel&)> fixed_evaluation(const TrainTask& held_out, int batches) {
  return [held_out, batches](SequenceModel& model) {
    return mean_loss(model, held_out, Generator(7), batches);
  };
}

// A file's name may be any bytes, JSON holds UTF-8 alone.
std::string shown_name(const std::filesystem::path& path) {
  const Json name = path.filename().string();
  return Json::parse(name.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// Numbers of 1e300 are finite as the file has them, not as the models read them.
void check_finite(const Tensor& series, const Table& table) {
  const auto values = series.data<float>();
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      throw DataError(error_message("compare",
                                    fmt::format("column '{}' has numbers too large for f32",
                                                table.columns[i % table.columns.size()]),
                                    nullptr, "Rescale it"));
}

struct TextData {
  std::vector<std::int64_t> train, held_out;
};

CompareData text_data(const CompareOptions& options, std::int64_t batch, std::int64_t context,
                      int evaluation_batches, Json& description) {
  const std::filesystem::path path = options.text.empty() ? default_text : options.text;
  const std::string text = read_text(path);
  const Vocabulary vocabulary = Vocabulary::characters(text);
  const std::vector<std::int64_t> tokens = vocabulary.encode(text);
  const auto data = std::make_shared<TextData>();
  const auto cut =
      tokens.begin() +
      training_part("compare", static_cast<std::int64_t>(tokens.size()), context, "characters");
  data->train.assign(tokens.begin(), cut);
  data->held_out.assign(cut, tokens.end());

  CompareData result;
  result.owner = data;
  const RandomWindows train(data->train, batch, context), held(data->held_out, batch, context);
  result.task.next = [train](Generator& g) { return train.next(g); };
  result.task.loss = [](const Tensor& output, const Batch& b) {
    return cross_entropy(output, b.y);
  };
  TrainTask evaluation = result.task;
  evaluation.next = [held](Generator& g) { return held.next(g); };
  result.task.evaluate = fixed_evaluation(evaluation, evaluation_batches);
  result.base.vocabulary = vocabulary.size();
  result.held_out = [data](std::int64_t steps, std::int64_t b, Generator& g) {
    return RandomWindows(data->held_out, b, steps).next(g).x;
  };
  result.inspect = [data, vocabulary](std::int64_t steps) {
    return inspect_source(vocabulary, data->held_out, steps);
  };
  const std::int64_t symbol = data->held_out[0];
  result.last_loss = [symbol](const Tensor& last) {
    Tensor target = Tensor::empty({last.size(0)}, DType::i64);
    for (std::int64_t& one : target.mutable_data<std::int64_t>()) one = symbol;
    return cross_entropy(last, target);
  };
  result.stream = [data, batch, task = result.task](std::int64_t steps) {
    const auto windows = std::make_shared<ContiguousWindows>(data->train, batch, steps);
    TrainTask stream = task;
    stream.next = [windows](Generator&) { return windows->next(); };
    stream.at_start = [windows] { return windows->at_start(); };
    stream.carry_state = true;
    return stream;
  };
  result.metric = "nats per character";
  result.uniform_loss = std::log(static_cast<double>(vocabulary.size()));
  description = {{"kind", "text"},
                 {"source", shown_name(path)},
                 {"vocabulary", vocabulary.size()},
                 {"train_tokens", data->train.size()},
                 {"validation_tokens", data->held_out.size()}};
  return result;
}

CompareData series_data(const CompareOptions& options, std::int64_t batch, std::int64_t context,
                        int evaluation_batches, Json& description) {
  const Table table = read_csv(options.series);
  const std::string target = options.target.empty() ? table.columns.back() : options.target;
  table.column(target);  // names the columns there are, where it is none of them
  check_finite(table.tensor(), table);
  // In f64: an f32 has no room for small changes of a large number.
  const Tensor raw = table.tensor({}, DType::f64);
  const std::int64_t rows = training_part("compare", raw.size(0), context, "rows");
  const Tensor series = standardize(raw, rows).first.to(DType::f32);
  check_finite(series, table);
  const auto column =
      std::find(table.columns.begin(), table.columns.end(), target) - table.columns.begin();
  const Tensor train_rows = series.rows(0, rows).clone();
  const Tensor held_rows = series.rows(rows, series.size(0)).clone();

  CompareData result;
  const RandomSeriesWindows train(train_rows, column, batch, context);
  const RandomSeriesWindows held(held_rows, column, batch, context);
  result.task.next = [train](Generator& g) { return train.next(g); };
  result.task.loss = [](const Tensor& output, const Batch& b) { return mse_loss(output, b.y); };
  TrainTask evaluation = result.task;
  evaluation.next = [held](Generator& g) { return held.next(g); };
  result.task.evaluate = fixed_evaluation(evaluation, evaluation_batches);
  result.base.features = series.size(1);
  result.base.outputs = 1;
  result.held_out = [held_rows, column](std::int64_t steps, std::int64_t b, Generator& g) {
    return RandomSeriesWindows(held_rows, column, b, steps).next(g).x;
  };
  result.inspect = [held_rows, column](std::int64_t steps) {
    return InspectSource{
        .x = reshape(held_rows.rows(0, steps), {steps, 1, held_rows.size(1)}),
        .draw =
            [held_rows, column](std::int64_t b, std::int64_t count, Generator& g) {
              return RandomSeriesWindows(held_rows, column, b, count).next(g);
            },
        .loss = [](const Tensor& output, const Tensor& y) { return mse_loss(output, y); }};
  };
  result.last_loss = [](const Tensor& last) { return mean(square(last - 1.0)); };
  result.metric = "mean squared error, standardised";
  double squares = 0;
  for (std::int64_t t = 0; t < held_rows.size(0); ++t) {
    const double value = held_rows.ptr<float>()[t * series.size(1) + column];
    squares += value * value;
  }
  result.uniform_loss = squares / static_cast<double>(held_rows.size(0));
  // Predicting the present value: what any forecast must beat.
  double persistence = 0;
  for (std::int64_t t = 1; t < held_rows.size(0); ++t) {
    const float* at = held_rows.ptr<float>() + t * series.size(1) + column;
    const double d = at[0] - at[-series.size(1)];
    persistence += d * d / static_cast<double>(held_rows.size(0) - 1);
  }
  description = {{"kind", "series"},
                 {"source", shown_name(options.series)},
                 {"target", target},
                 {"columns", table.columns},
                 {"train_tokens", rows},
                 {"validation_tokens", held_rows.size(0)},
                 {"persistence_loss", persistence}};
  return result;
}

CompareData task_data(const CompareOptions& options, std::int64_t batch, int evaluation_batches,
                      Json& description) {
  const LongRangeTask& task = long_range_task(options.task);
  const std::int64_t length = options.length > 0 ? options.length : task.length;
  CompareData result;
  result.task = train_task(task, length, batch, evaluation_batches);
  result.exact = &task;
  result.length = length;
  result.base.vocabulary = task.vocabulary;
  result.base.features = task.features;
  result.base.outputs = task.outputs;
  result.metric = task.real() ? "mean squared error" : "nats per answer";
  result.uniform_loss = task.baseline(length).loss;
  description = {{"kind", "task"},
                 {"source", task.name},
                 {"summary", task.summary},
                 {"origin", task.source},
                 {"length", length},
                 {"length_counts", task.length_counts},
                 {"knows_not", task.knows_not}};
  return result;
}

}  // namespace

CompareData load_data(const CompareOptions& options, std::int64_t batch, std::int64_t context,
                      int evaluation_batches, Json& description) {
  if (!options.text.empty() + !options.series.empty() + !options.task.empty() > 1)
    fail("compare", "give one of a text, a series and a task");
  CompareData data = !options.task.empty()
                         ? task_data(options, batch, evaluation_batches, description)
                     : options.series.empty()
                         ? text_data(options, batch, context, evaluation_batches, description)
                         : series_data(options, batch, context, evaluation_batches, description);
  description["metric"] = data.metric;
  description["uniform_loss"] = data.uniform_loss;
  return data;
}

}  // namespace unroll
