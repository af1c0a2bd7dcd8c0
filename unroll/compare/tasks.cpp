#include <fmt/format.h>
#include <unroll/compare/tasks.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/index.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>

#include <cmath>
#include <limits>

namespace unroll {
namespace {

constexpr std::int64_t not_asked = -100;  // what cross_entropy ignores
constexpr std::int64_t no_limit = std::numeric_limits<std::int32_t>::max();

// Symbols [T, B] that are written by step and sequence.
class Symbols {
 public:
  Symbols(std::int64_t steps, std::int64_t batch, std::int64_t everywhere)
      : tensor_(Tensor::full({steps, batch}, static_cast<double>(everywhere), DType::i64)),
        values_(tensor_.mutable_ptr<std::int64_t>()),
        batch_(batch) {}
  std::int64_t& operator()(std::int64_t t, std::int64_t b) { return values_[t * batch_ + b]; }
  Tensor take() { return std::move(tensor_); }

 private:
  Tensor tensor_;
  std::int64_t* values_;
  std::int64_t batch_;
};

TaskBaseline even_chance(std::int64_t answers) {
  const auto n = static_cast<double>(answers);
  return {.score = 1 / n, .loss = std::log(n)};
}

// --- Adding: two numbers among many, and their sum.

Batch adding(std::int64_t length, std::int64_t batch, Generator& generator) {
  Tensor x = Tensor::zeros({length, batch, 2}), y = Tensor::empty({batch, 1});
  float* values = x.mutable_ptr<float>();
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto at = [&](std::int64_t t) -> float* { return values + (t * batch + b) * 2; };
    for (std::int64_t t = 0; t < length; ++t) at(t)[0] = static_cast<float>(generator.uniform());
    const std::int64_t first = generator.below(length / 2);
    const std::int64_t second = length / 2 + generator.below(length - length / 2);
    at(first)[1] = at(second)[1] = 1;
    y.mutable_ptr<float>()[b] = at(first)[0] + at(second)[0];
  }
  return {x, y};
}

// The variance of a sum of two uniform numbers, which always answering their mean leaves.
TaskBaseline adding_baseline(std::int64_t) { return {.score = 1.0 / 6, .loss = 1.0 / 6}; }

// --- Copying. Symbols 0 to 7, a blank, and a mark.

constexpr std::int64_t copy_symbols = 8, blank = 8, mark = 9;

// 10 symbols, length - 1 blanks, the mark, then 10 blanks at which they are asked for.
Batch copy(std::int64_t length, std::int64_t batch, Generator& generator) {
  constexpr std::int64_t count = 10;
  Symbols x(length + 2 * count, batch, blank), y(length + 2 * count, batch, not_asked);
  for (std::int64_t b = 0; b < batch; ++b) {
    x(length + count - 1, b) = mark;
    for (std::int64_t k = 0; k < count; ++k)
      x(k, b) = y(length + count + k, b) = generator.below(copy_symbols);
  }
  return {x.take(), y.take()};
}

constexpr std::int64_t selected = 8;

// 8 symbols at any places of `length` steps of blanks, then 8 marks that ask for them in order.
Batch selective_copy(std::int64_t length, std::int64_t batch, Generator& generator) {
  Symbols x(length + selected, batch, blank), y(length + selected, batch, not_asked);
  for (std::int64_t b = 0; b < batch; ++b) {
    std::int64_t k = 0;
    // Each set of places equally likely (Knuth's selection sampling).
    for (std::int64_t t = 0; t < length; ++t)
      if (generator.below(length - t) < selected - k)
        x(t, b) = y(length + k++, b) = generator.below(copy_symbols);
    for (std::int64_t m = 0; m < selected; ++m) x(length + m, b) = mark;
  }
  return {x.take(), y.take()};
}

// --- Parity: is the number of ones so far odd?

Batch parity(std::int64_t length, std::int64_t batch, Generator& generator) {
  Symbols x(length, batch, 0), y(length, batch, 0);
  for (std::int64_t b = 0; b < batch; ++b) {
    std::int64_t odd = 0;
    for (std::int64_t t = 0; t < length; ++t) {
      x(t, b) = generator.below(2);
      y(t, b) = odd ^= x(t, b);
    }
  }
  return {x.take(), y.take()};
}

// --- Associative recall: pairs of a key and a value, then the keys in another order.

constexpr std::int64_t keys = 16, values = 16;

// All keys of a sequence differ, and so do all values: who has only seen which values there were
// is right once in `length` times.
Batch recall(std::int64_t length, std::int64_t batch, Generator& generator) {
  Symbols x(3 * length, batch, 0), y(3 * length, batch, not_asked);
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::vector<std::int64_t> key = generator.permutation(keys),
                                    value = generator.permutation(values),
                                    order = generator.permutation(length);
    for (std::int64_t i = 0; i < length; ++i) {
      const auto pair = static_cast<std::size_t>(i);
      x(2 * i, b) = key[pair];
      x(2 * i + 1, b) = keys + value[pair];
      const auto asked = static_cast<std::size_t>(order[pair]);
      x(2 * length + i, b) = key[asked];
      y(2 * length + i, b) = value[asked];
    }
  }
  return {x.take(), y.take()};
}

// --- Induction heads: what came behind the mark when it was last seen?

constexpr std::int64_t induction_symbols = 16;

Batch induction(std::int64_t length, std::int64_t batch, Generator& generator) {
  Symbols x(length, batch, 0), y(length, batch, not_asked);
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t t = 0; t < length; ++t) x(t, b) = generator.below(induction_symbols);
    const std::int64_t place = generator.below(length - 2);
    x(place, b) = x(length - 1, b) = induction_symbols;
    y(length - 1, b) = x(place + 1, b);
  }
  return {x.take(), y.take()};
}

constexpr LongRangeTask tasks[] = {
    {.name = "adding",
     .summary = "random numbers, one of each half marked; at the end, their sum",
     .source = "Hochreiter, Schmidhuber: Long short-term memory, 1997, 5.4",
     .length_counts = "steps",
     .knows_not = "always answering 1",
     .vocabulary = 0,
     .features = 2,
     .outputs = 1,
     .shortest = 2,
     .length = 50,
     .longest = no_limit,
     .draw = adding,
     .baseline = adding_baseline},
    {.name = "copy",
     .summary = "10 symbols, a gap of blanks, a mark; then the symbols again",
     .source = "Hochreiter, Schmidhuber, 1997; as in Arjovsky, Shah, Bengio: Unitary evolution "
               "recurrent neural networks, 2016",
     .length_counts = "blanks",
     .knows_not = "guessing one of 8 symbols",
     .vocabulary = 10,
     .features = 0,
     .outputs = copy_symbols,
     .shortest = 1,
     .length = 20,
     .longest = no_limit,
     .draw = copy,
     .baseline = [](std::int64_t) { return even_chance(copy_symbols); }},
    {.name = "selective-copy",
     .summary = "8 symbols at random places among blanks; then the symbols in order",
     .source = "Gu, Dao: Mamba, 2023, 4.1.1; Jing et al.: Gated orthogonal recurrent units, 2019",
     .length_counts = "steps",
     .knows_not = "guessing one of 8 symbols",
     .vocabulary = 10,
     .features = 0,
     .outputs = copy_symbols,
     .shortest = selected,
     .length = 32,
     .longest = no_limit,
     .draw = selective_copy,
     .baseline = [](std::int64_t) { return even_chance(copy_symbols); }},
    {.name = "parity",
     .summary = "bits; is the number of ones odd?",
     .source =
         "Minsky, Papert: Perceptrons, 1969; lengths beyond training: Deletang et al.: Neural "
         "networks and the Chomsky hierarchy, 2023",
     .length_counts = "bits",
     .knows_not = "guessing",
     .vocabulary = 2,
     .features = 0,
     .outputs = 2,
     .shortest = 2,
     .length = 40,
     .longest = no_limit,
     .last_answer = true,
     .draw = parity,
     .baseline = [](std::int64_t) { return even_chance(2); }},
    {.name = "recall",
     .summary = "pairs of a key and a value; then each key again, asking for its value",
     .source = "Ba et al.: Using fast weights to attend to the recent past, 2016; many queries: "
               "Arora et al.: Zoology, 2023",
     .length_counts = "pairs",
     .knows_not = "guessing one of the values that were there",
     .vocabulary = keys + values,
     .features = 0,
     .outputs = values,
     .shortest = 1,
     .length = 4,
     .longest = std::min(keys, values),
     .draw = recall,
     .baseline = even_chance},
    {.name = "induction",
     .summary = "random symbols, one behind a mark; at the end the mark again, asking for it",
     .source =
         "Olsson et al.: In-context learning and induction heads, 2022; as in Gu, Dao: Mamba, "
         "2023, 4.1.2",
     .length_counts = "steps",
     .knows_not = "guessing one of 16 symbols",
     .vocabulary = induction_symbols + 1,
     .features = 0,
     .outputs = induction_symbols,
     .shortest = 3,
     .length = 64,
     .longest = no_limit,
     .draw = induction,
     .baseline = [](std::int64_t) { return even_chance(induction_symbols); }},
};

Tensor loss_of(const LongRangeTask& task, const Tensor& output, const Batch& batch) {
  return task.real() ? mse_loss(select(output, 0, output.size(0) - 1), batch.y)
                     : cross_entropy(output, batch.y);
}

void check_length(const LongRangeTask& task, std::int64_t length) {
  if (length < task.shortest || length > task.longest)
    fail(task.name,
         fmt::format("there is no sequence of {} {}: from {}{}", length, task.length_counts,
                     task.shortest,
                     task.longest == no_limit ? " on" : fmt::format(" to {}", task.longest)));
}

// Only the last step's answers stay asked.
Batch last_answers(Batch batch) {
  const std::int64_t steps = batch.y.size(0), size = batch.y.size(1);
  Symbols y(steps, size, not_asked);
  const std::int64_t* answers = batch.y.ptr<std::int64_t>();
  for (std::int64_t b = 0; b < size; ++b) y(steps - 1, b) = answers[(steps - 1) * size + b];
  batch.y = y.take();
  return batch;
}

struct Count {
  std::int64_t answers = 0, right = 0, sequences = 0, exact = 0;
};

void count_symbols(const Tensor& output, const Tensor& y, Count& count) {
  const Tensor best = argmax(output, -1);
  const std::int64_t steps = y.size(0), batch = y.size(1);
  const std::int64_t* given = best.ptr<std::int64_t>();
  const std::int64_t* wanted = y.ptr<std::int64_t>();
  for (std::int64_t b = 0; b < batch; ++b) {
    bool all = true;
    for (std::int64_t i = b; i < steps * batch; i += batch) {
      if (wanted[i] == not_asked) continue;
      ++count.answers;
      const bool right = given[i] == wanted[i];
      count.right += right ? 1 : 0;
      all = all && right;
    }
    ++count.sequences;
    count.exact += all ? 1 : 0;
  }
}

void count_reals(const Tensor& output, const Tensor& y, Count& count) {
  constexpr float close = 0.04F;  // the criterion of 1997
  const Tensor last = select(output, 0, output.size(0) - 1);
  for (std::int64_t b = 0; b < y.size(0); ++b) {
    ++count.sequences;
    count.exact += std::abs(last.ptr<float>()[b] - y.ptr<float>()[b]) < close ? 1 : 0;
  }
}

}  // namespace

std::span<const LongRangeTask> long_range_tasks() { return tasks; }

const LongRangeTask& long_range_task(std::string_view name) {
  std::string known;
  for (const LongRangeTask& task : tasks) {
    if (name == task.name) return task;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", task.name);
  }
  fail("task", fmt::format("no task is named '{}'", name), "Known: " + known);
}

Batch draw_task(const LongRangeTask& task, std::int64_t length, std::int64_t batch,
                Generator& generator) {
  check_length(task, length);
  if (batch < 1) fail(task.name, fmt::format("a batch of {}", batch));
  return task.draw(length, batch, generator);
}

TrainTask train_task(const LongRangeTask& task, std::int64_t length, std::int64_t batch,
                     int evaluation_batches) {
  check_length(task, length);
  // Where every step is asked for, the longest sequence holds all the shorter ones.
  const std::int64_t shortest = task.last_answer || task.real() ? length : task.shortest;
  TrainTask result;
  result.next = [&task, shortest, length, batch](Generator& generator) {
    const std::int64_t more = length - shortest;
    const std::int64_t drawn = more == 0 ? length : shortest + generator.below(more + 1);
    return draw_task(task, drawn, batch, generator);
  };
  result.loss = [&task](const Tensor& output, const Batch& b) { return loss_of(task, output, b); };
  result.evaluate = [&task, length, batch, evaluation_batches](SequenceModel& model) {
    Generator fixed(3);
    return score_task(model, task, length, evaluation_batches, batch, fixed).loss;
  };
  return result;
}

TaskScore score_task(SequenceModel& model, const LongRangeTask& task, std::int64_t length,
                     int batches, std::int64_t batch, Generator& generator) {
  if (batches < 1) fail(task.name, fmt::format("{} batches to score", batches));
  const NoGrad constant;
  const bool training = model.training();
  model.eval();
  TaskScore result{.length = length};
  Count count;
  for (int i = 0; i < batches; ++i) {
    Batch drawn = draw_task(task, length, batch, generator);
    if (task.last_answer) drawn = last_answers(std::move(drawn));
    const Tensor output = model(drawn.x).output;
    result.loss += loss_of(task, output, drawn).item() / batches;
    task.real() ? count_reals(output, drawn.y, count) : count_symbols(output, drawn.y, count);
  }
  model.train(training);
  const auto share = [](std::int64_t part, std::int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);
  };
  result.score = task.real() ? result.loss : share(count.right, count.answers);
  result.exact = share(count.exact, count.sequences);
  return result;
}

}  // namespace unroll
