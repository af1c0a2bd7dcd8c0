// Long-range tasks: right answers, exact baselines, scores, and a model that solves one.

#include <unroll/compare/tasks.h>
#include <unroll/ops/index.h>
#include <unroll/optim/adam.h>

#include <cmath>
#include <map>
#include <set>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

constexpr std::int64_t batch_size = 300;

using Column = std::vector<std::int64_t>;

// Sequence b of symbols [T, B].
Column column(const Tensor& symbols, std::int64_t b) {
  Column all;
  for (std::int64_t t = 0; t < symbols.size(0); ++t)
    all.push_back(symbols.data<std::int64_t>()[t * symbols.size(1) + b]);
  return all;
}

// The answers that follow from the symbols alone, found another way than the generator's.
Column answers(const std::string& task, const Column& x) {
  Column y(x.size(), -100);
  if (task == "copy") {
    std::size_t mark = 0;
    while (x[mark] != 9) ++mark;
    for (std::size_t k = 0; k < 10; ++k) y[mark + 1 + k] = x[k];
  } else if (task == "selective-copy") {
    Column kept;
    for (std::int64_t one : x)
      if (one < 8) kept.push_back(one);
    REQUIRE(kept.size() == 8);
    std::copy(kept.begin(), kept.end(), y.end() - 8);
  } else if (task == "parity") {
    for (std::size_t t = 0; t < x.size(); ++t)
      y[t] = std::count(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(t) + 1, 1) % 2;
  } else if (task == "recall") {
    const std::size_t pairs = x.size() / 3;
    std::map<std::int64_t, std::int64_t> value_of;
    std::set<std::int64_t> seen;
    for (std::size_t i = 0; i < pairs; ++i) {
      REQUIRE(value_of.emplace(x[2 * i], x[2 * i + 1] - 16).second);
      REQUIRE(seen.insert(x[2 * i + 1]).second);
    }
    for (std::size_t i = 2 * pairs; i < x.size(); ++i) {
      y[i] = value_of.at(x[i]);
      value_of.erase(x[i]);  // asked for once
    }
  } else {
    REQUIRE(x.back() == 16);
    REQUIRE(std::count(x.begin(), x.end(), 16) == 2);
    y.back() = *(std::find(x.begin(), x.end(), 16) + 1);
  }
  return y;
}

// What `answer` makes of a whole sequence of symbols, as a model that is sure of it.
class Told : public SequenceModel {
 public:
  Told(std::int64_t outputs, std::function<Column(const Column&)> answer)
      : outputs_(outputs), answer_(std::move(answer)) {}
  Tensor embed(const Tensor& x) override { return x; }
  Output run(const Tensor& x, const State&) override {
    Tensor chosen = Tensor::zeros(x.shape(), DType::i64);
    for (std::int64_t b = 0; b < x.size(1); ++b) {
      const Column y = answer_(column(x, b));
      for (std::int64_t t = 0; t < x.size(0); ++t)
        chosen.mutable_ptr<std::int64_t>()[t * x.size(1) + b] =
            std::max<std::int64_t>(0, y[static_cast<std::size_t>(t)]);
    }
    return {one_hot(chosen, outputs_), {}};
  }
  bool constant_state() const override { return true; }

 private:
  std::int64_t outputs_;
  std::function<Column(const Column&)> answer_;
};

}  // namespace

TEST_CASE("the answers of every task follow from its symbols") {
  Generator g(1);
  for (const LongRangeTask& task : long_range_tasks()) {
    if (task.real()) continue;
    for (const std::int64_t length : {task.shortest, task.shortest + 1, task.length}) {
      CAPTURE(task.name, length);
      const Batch batch = draw_task(task, length, batch_size, g);
      for (std::int64_t b = 0; b < batch_size; ++b) {
        const Column x = column(batch.x, b);
        for (std::int64_t one : x) REQUIRE((one >= 0 && one < task.vocabulary));
        REQUIRE(column(batch.y, b) == answers(task.name, x));
      }
    }
  }
}

TEST_CASE("copying: where symbols, blanks and marks stand") {
  Generator g(2);
  const Batch copy = draw_task(long_range_task("copy"), 5, 1, g);
  const Column x = column(copy.x, 0);
  REQUIRE(x.size() == 25);
  CHECK(Column(x.begin() + 10, x.begin() + 14) == Column(4, 8));
  CHECK(x[14] == 9);
  CHECK(Column(x.begin() + 15, x.end()) == Column(10, 8));

  // Of 5 blanks among 13 steps each place is as likely: 8/13 of them hold a symbol.
  const std::int64_t rows = 4000;
  const Batch selective = draw_task(long_range_task("selective-copy"), 13, rows, g);
  for (std::int64_t t = 0; t < 13; ++t) {
    double symbols = 0;
    for (std::int64_t b = 0; b < rows; ++b)
      symbols += selective.x.data<std::int64_t>()[t * rows + b] < 8 ? 1 : 0;
    CHECK(symbols / rows == Approx(8.0 / 13).margin(4 * std::sqrt(0.25 / rows)));
  }
}

TEST_CASE("what remembers nothing gets the baseline and no more") {
  // Of all predictors that see the present symbol alone, the best answers the most frequent one;
  // its loss is the conditional entropy.
  for (const LongRangeTask& task : long_range_tasks()) {
    if (task.real()) continue;
    CAPTURE(task.name);
    const std::int64_t length = task.length;
    const std::string name = task.name;
    Generator g(3);
    std::map<std::pair<std::int64_t, std::int64_t>, double> joint;
    std::map<std::int64_t, double> marginal;
    double count = 0;
    for (int i = 0; i < 40; ++i) {
      const Batch batch = draw_task(task, length, batch_size, g);
      for (std::int64_t b = 0; b < batch_size; ++b) {
        const Column x = column(batch.x, b), y = column(batch.y, b);
        for (std::size_t t = 0; t < x.size(); ++t) {
          if (y[t] == -100 || (task.last_answer && t + 1 < x.size())) continue;
          std::int64_t seen = x[t], answer = y[t];
          if (name == "recall") {
            // Values that were there are known here, but not whose they are: by rank.
            const auto rank = [&](std::size_t offset, std::int64_t one) {
              std::int64_t below = 0;
              for (std::size_t k = offset; k < 2 * static_cast<std::size_t>(length); k += 2)
                below += x[k] < one ? 1 : 0;
              return below;
            };
            seen = rank(0, x[t]);
            answer = rank(1, 16 + y[t]);
          }
          joint[{seen, answer}] += 1;
          marginal[seen] += 1;
          count += 1;
        }
      }
    }
    std::map<std::int64_t, double> best;
    double entropy = 0;
    for (const auto& [pair, n] : joint) {
      best[pair.first] = std::max(best[pair.first], n);
      entropy -= n / count * std::log(n / marginal[pair.first]);
    }
    double right = 0;
    for (const auto& [seen, n] : best) right += n / count;
    const TaskBaseline baseline = task.baseline(length);
    CHECK(right == Approx(baseline.score).margin(0.015));
    CHECK(entropy == Approx(baseline.loss).margin(0.01));
  }
}

TEST_CASE("scores count right answers, and sequences without a wrong one") {
  Generator g(4);
  for (const LongRangeTask& task : long_range_tasks()) {
    if (task.real()) continue;
    CAPTURE(task.name);
    const std::string name = task.name;
    Told right(task.outputs, [&](const Column& x) { return answers(name, x); });
    const TaskScore all = score_task(right, task, task.length, 2, 32, g);
    CHECK(all.length == task.length);
    CHECK(all.score == 1);
    CHECK(all.exact == 1);
  }
  // The first of ten symbols wrong.
  Told nearly(8, [](const Column& x) {
    Column y = answers("copy", x);
    y[y.size() - 10] = (y[y.size() - 10] + 1) % 8;
    return y;
  });
  const TaskScore most = score_task(nearly, long_range_task("copy"), 7, 2, 32, g);
  CHECK(most.score == Approx(0.9));
  CHECK(most.exact == 0);
  // Of parity the last answer counts alone: all others wrong.
  Told last(2, [](const Column& x) {
    Column y = answers("parity", x);
    for (std::size_t t = 0; t + 1 < y.size(); ++t) y[t] = 1 - y[t];
    return y;
  });
  CHECK(score_task(last, long_range_task("parity"), 9, 2, 32, g).score == 1);
}

TEST_CASE("adding is scored by its error, and exact within 0.04") {
  class Sum : public SequenceModel {
   public:
    double off = 0;
    Tensor embed(const Tensor& x) override { return x; }
    Output run(const Tensor& x, const State&) override {
      Tensor y = Tensor::zeros({x.size(0), x.size(1), 1});
      for (std::int64_t b = 0; b < x.size(1); ++b) {
        double sum = off;
        for (std::int64_t t = 0; t < x.size(0); ++t) {
          const float* at = x.ptr<float>() + (t * x.size(1) + b) * 2;
          sum += at[0] * at[1];
        }
        y.mutable_ptr<float>()[(x.size(0) - 1) * x.size(1) + b] = static_cast<float>(sum);
      }
      return {y, {}};
    }
    bool constant_state() const override { return true; }
  } sum;
  const auto score = [&](double off) {
    sum.off = off;
    Generator g(5);
    return score_task(sum, long_range_task("adding"), 12, 2, 50, g);
  };
  CHECK(score(0).score == Approx(0).margin(1e-10));
  CHECK(score(0.03).score == Approx(0.0009).epsilon(1e-3));
  CHECK(score(0.03).exact == 1);
  CHECK(score(0.05).exact == 0);
}

TEST_CASE("training batches have lengths up to the trained one") {
  Generator g(6);
  const auto lengths = [&](const char* name, std::int64_t length) {
    const TrainTask task = train_task(long_range_task(name), length, 2, 1);
    std::set<std::int64_t> seen;
    for (int i = 0; i < 200; ++i) seen.insert(task.next(g).x.size(0));
    return seen;
  };
  CHECK(lengths("copy", 4) == std::set<std::int64_t>{21, 22, 23, 24});
  CHECK(lengths("recall", 3) == std::set<std::int64_t>{3, 6, 9});
  CHECK(lengths("parity", 9) == std::set<std::int64_t>{9});  // holds all its beginnings
  CHECK(lengths("adding", 9) == std::set<std::int64_t>{9});
}

TEST_CASE("tasks refuse lengths that they do not have, and names that nobody has") {
  Generator g(7);
  for (const LongRangeTask& task : long_range_tasks()) {
    CAPTURE(task.name);
    CHECK(has(message_of([&] { draw_task(task, task.shortest - 1, 2, g); }), task.length_counts));
    CHECK_THROWS_AS(draw_task(task, task.length, 0, g), Error);
    CHECK_THROWS_AS(train_task(task, task.shortest - 1, 2, 1), Error);
    CHECK_NOTHROW(draw_task(task, task.shortest, 1, g));
  }
  CHECK(has(message_of([&] { draw_task(long_range_task("recall"), 17, 2, g); }), "from 1 to 16"));
  CHECK(has(message_of([] { long_range_task("juggling"); }), "selective-copy"));
}

TEST_CASE("a small LSTM finds parity, and holds it on sequences four times as long") {
  Generator g(8);
  const LongRangeTask& parity = long_range_task("parity");
  const auto model = make_model({.kind = ModelKind::lstm,
                                 .vocabulary = 2,
                                 .outputs = 2,
                                 .embedding = 8,
                                 .hidden = 32,
                                 .layers = 1},
                                g);
  const auto score = [&](std::int64_t length) {
    Generator fresh(9);
    return score_task(*model, parity, length, 4, 64, fresh).score;
  };
  CHECK(score(20) < 0.65);
  Adam optimizer(model->parameters(), {.learning_rate = 1e-2});
  train(*model, optimizer, train_task(parity, 20, 32, 1), g,
        {.steps = 400, .clip_norm = 1, .label = ""});
  CHECK(score(20) == 1);
  CHECK(score(80) == 1);
}
