// Anomalies of live streams: a small GRU learns to forecast the next value from the beginning of a
// stream, then reads the rest point by point; where its errors become unusual, it raises an alarm.
//
//     anomaly [--quick] [--model gru|lstm|mamba|...] [--epochs N] [--seed N]
//             [--epsilon E] [FOLDER | FILE.csv]
//
// FOLDER (default: nab in $UNROLL_DATA) holds streams of the Numenta Anomaly Benchmark, a file is
// one stream: lines "timestamp,value" below a header. combined_windows.json beside it says where
// the anomalies are. Only the count of what was found uses it: a model is trained on NAB's
// probationary period (15 % of a stream, 750 rows at the most; no window begins earlier), and the
// threshold is the epsilon of Lavin and Ahmad (2015), 1e-5, for all streams.
#include <unroll/unroll.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>

using namespace unroll;

constexpr std::int64_t minute = 60, hour = 60 * minute, day = 24 * hour, week = 7 * day;

struct Series {
  std::string name = {};
  std::vector<std::string> stamps = {};
  std::vector<std::int64_t> seconds = {};  ///< since 1970, by the stamps
  std::vector<double> values = {};
  std::vector<std::pair<std::int64_t, std::int64_t>> windows =
      {};  ///< labelled, both ends included
  std::int64_t rows() const { return std::ssize(values); }
  std::int64_t probation() const { return std::min<std::int64_t>(rows() * 15 / 100, 750); }
};

std::int64_t seconds_of(const std::string& stamp) {
  int y = 0, h = 0, min = 0, s = 0;
  unsigned m = 0, d = 0;
  if (std::sscanf(stamp.c_str(), "%d-%u-%u %d:%d:%d", &y, &m, &d, &h, &min, &s) < 5)
    throw DataError("'" + stamp + "' is no time such as 2014-01-31 12:30:00");
  const std::chrono::sys_days days =
      std::chrono::year(y) / std::chrono::month(m) / std::chrono::day(d);
  return days.time_since_epoch().count() * day + h * hour + min * minute + s;
}

Series load(const std::filesystem::path& path) {
  Series series{.name = path.stem().string()};
  series.values = read_csv(path, {.columns = {"value"}}).column("value");
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line) && series.stamps.size() < series.values.size()) {
    series.stamps.push_back(line.substr(0, line.find(',')));
    series.seconds.push_back(seconds_of(series.stamps.back()));
  }
  const auto labels = path.parent_path() / "combined_windows.json";
  if (std::filesystem::exists(labels)) {
    const auto all = nlohmann::json::parse(std::ifstream(labels));
    for (const auto& [name, windows] : all.items())
      if (std::filesystem::path(name).filename() == path.filename())
        for (const auto& window : windows)
          series.windows.emplace_back(seconds_of(window.at(0)), seconds_of(window.at(1)));
  }
  return series;
}

// What a model sees of row t, and what it is to say: the change to row t + 1, in units of the
// probationary period's changes. Hours and weekdays are told where that period holds them twice.
struct Features {
  Tensor x;  ///< [rows - 1, F]
  Tensor y;  ///< [rows - 1, 1]
};

Features features(const Series& s) {
  const std::int64_t known = s.probation(), count = s.rows() - 1;
  const auto spread = [&](auto value) {
    double sum = 0, squares = 0;
    for (std::int64_t t = 1; t < known; ++t) {
      sum += value(t);
      squares += value(t) * value(t);
    }
    const double mean = sum / static_cast<double>(known - 1);
    const double variance = squares / static_cast<double>(known - 1) - mean * mean;
    return std::pair{mean, std::max(1e-12, std::sqrt(std::max(0.0, variance)))};
  };
  const auto at = [&](std::int64_t t) { return s.values[static_cast<std::size_t>(t)]; };
  const auto [level, range] = spread(at);
  const auto change = [&](std::int64_t t) { return at(t) - at(std::max<std::int64_t>(t, 1) - 1); };
  const double jump = spread(change).second;
  std::vector<std::pair<std::int64_t, int>> cycles;  // length, and how many harmonics
  const std::int64_t span = s.seconds[static_cast<std::size_t>(known - 1)] - s.seconds[0];
  if (span >= 2 * day) cycles.emplace_back(day, 4);
  if (span >= 2 * week) cycles.emplace_back(week, 3);
  std::vector<float> x, y;
  for (std::int64_t t = 0; t < count; ++t) {
    // Far from all that was trained on a model would only extrapolate.
    x.push_back(static_cast<float>(std::clamp((at(t) - level) / range, -4.0, 4.0)));
    x.push_back(static_cast<float>(std::clamp(change(t) / jump, -6.0, 6.0)));
    for (const auto& [length, harmonics] : cycles)
      for (int k = 1; k <= harmonics; ++k) {
        const double phase = 2 * std::numbers::pi * k *
                             static_cast<double>(s.seconds[static_cast<std::size_t>(t)] % length) /
                             static_cast<double>(length);
        x.push_back(static_cast<float>(std::sin(phase)));
        x.push_back(static_cast<float>(std::cos(phase)));
      }
    y.push_back(static_cast<float>(change(t + 1) / jump));
  }
  return {Tensor::from<float>(x, {count, std::ssize(x) / count}),
          Tensor::from<float>(y, {count, 1})};
}

// Trains on windows of the first four fifths of the probationary period; the last fifth chooses the
// epoch. Returns how many rows were trained on.
std::int64_t train(SequenceModel& model, const Features& in, std::int64_t known, int epochs,
                   Generator& g) {
  const std::int64_t trained = known * 4 / 5, steps = std::min<std::int64_t>(96, trained / 2);
  AdamW adam(model.parameters(), {.weight_decay = 1e-2});
  const auto rows = [](const Tensor& of, std::int64_t begin, std::int64_t end) {
    return slice(of, 0, begin, end);
  };
  const EpochTask task{
      .examples = trained - steps,
      .loss =
          [&](std::span<const std::int64_t> batch) {
            std::vector<Tensor> x, y;
            for (const std::int64_t begin : batch) {
              x.push_back(rows(in.x, begin, begin + steps));
              y.push_back(rows(in.y, begin, begin + steps));
            }
            return mse_loss(model(stack(x, 1)).output, stack(y, 1));
          },
      .evaluate =
          [&] {
            const Tensor all = squeeze(model(unsqueeze(rows(in.x, 0, known - 1), 1)).output, 1);
            return mse_loss(rows(all, trained, known - 1), rows(in.y, trained, known - 1)).item();
          }};
  train_epochs(model, adam, task, g,
               {.epochs = epochs,
                .batch = 32,
                .learning_rate = 3e-3,
                .warmup = 0.05,
                .clip_norm = 1,
                .label = ""});
  return trained;
}

struct Options {
  std::string kind = "gru";
  int epochs = 30;
  std::uint64_t seed = 1;
  double epsilon = 1e-5;
};

struct Count {
  int found = 0, windows = 0, wrong = 0;
};

// Alarms of a detector that is fed with the errors of rows `from` and later; those of the
// probationary period raise none, but are part of what is usual.
template <class ErrorOf>
Count judge(const char* title, const Series& s, std::int64_t from, double epsilon, bool two_sided,
            bool print, const ErrorOf& error_of) {
  const std::int64_t known = s.probation();
  const double pace =
      static_cast<double>(s.seconds.back() - s.seconds.front()) / static_cast<double>(s.rows() - 1);
  AnomalyDetector detector({.warm_up = std::max<std::int64_t>(10, known - from),
                            .epsilon = epsilon,
                            .quiet = std::llround(static_cast<double>(day) / pace),
                            .two_sided = two_sided});
  std::vector<bool> found(s.windows.size());
  Count count{.windows = static_cast<int>(s.windows.size())};
  if (print) std::printf("  %s\n", title);
  for (std::int64_t t = from; t < s.rows(); ++t) {
    const auto [tail, alarm] = detector.step(error_of(t));
    if (!alarm) continue;
    const auto i = static_cast<std::size_t>(t);
    const auto window = std::ranges::find_if(s.windows, [&](const auto& w) {
      return w.first <= s.seconds[i] && s.seconds[i] <= w.second;
    });
    const auto number = static_cast<std::size_t>(window - s.windows.begin());
    const bool inside = window != s.windows.end();
    if (!inside) ++count.wrong;
    if (print)
      std::printf("    %s  value %9.2f  tail %.1e  %s\n", s.stamps[i].c_str(), s.values[i], tail,
                  inside ? ("in window " + std::to_string(number + 1)).c_str() : "in no window");
    if (inside) found[number] = true;
  }
  count.found = static_cast<int>(std::ranges::count(found, true));
  std::string missed;
  for (std::size_t i = 0; i < found.size(); ++i)
    if (!found[i]) missed += (missed.empty() ? ", missed " : " ") + std::to_string(i + 1);
  std::printf("  %-28s %d of %d windows found%s, %d false alarms\n", print ? "" : title,
              count.found, count.windows, missed.c_str(), count.wrong);
  return count;
}

Count run(const Series& s, const Options& o) {
  const Features in = features(s);
  Generator g(o.seed);
  const auto model = make_model({.kind = model_kind(o.kind),
                                 .features = in.x.size(1),
                                 .outputs = 1,
                                 .embedding = 16,
                                 .hidden = 32,
                                 .layers = 1},
                                g);
  const std::int64_t trained = train(*model, in, s.probation(), o.epochs, g);
  std::printf("%s: %lld rows, %s with %lld parameters trained on %lld, %lld are probationary\n",
              s.name.c_str(), static_cast<long long>(s.rows()), o.kind.c_str(),
              static_cast<long long>(model->parameter_count()), static_cast<long long>(trained),
              static_cast<long long>(s.probation()));

  // Live: a row comes in, is compared with what was said one row earlier, and the next is forecast.
  Stream stream(*model, o.kind == "transformer" ? StreamOptions{.window = 96} : StreamOptions{});
  std::vector<double> wrong(static_cast<std::size_t>(s.rows()));
  for (std::int64_t t = 0; t + 1 < s.rows(); ++t)
    wrong[static_cast<std::size_t>(t + 1)] =
        std::abs(stream.step(in.x.rows(t, t + 1)).item() - in.y.rows(t, t + 1).item());

  const auto at = [&](std::int64_t t) { return s.values[static_cast<std::size_t>(t)]; };
  const Count count = judge("alarms by the model's errors", s, trained, o.epsilon, false, true,
                            [&](std::int64_t t) { return wrong[static_cast<std::size_t>(t)]; });
  judge("by the error of persistence", s, 1, o.epsilon, false, false,
        [&](std::int64_t t) { return std::abs(at(t) - at(t - 1)); });
  judge("by the value itself", s, 1, o.epsilon, true, false, at);
  return count;
}

int main(int argc, char** argv) try {
  Options options;
  bool quick = false;
  std::string given;
  CLI::App app("Finds anomalies in streams");
  app.add_flag("--quick", quick, "Fewer epochs, as a test");
  app.add_option("--model", options.kind);
  const auto* epochs = app.add_option("--epochs", options.epochs)->check(CLI::Range(1, 1'000'000));
  app.add_option("--epsilon", options.epsilon, "Of the Gaussian's tail, below which is an alarm")
      ->check(CLI::Range(1e-300, 0.5));
  app.add_option("--seed", options.seed);
  app.add_option("PLACE", given,
                 "A stream's CSV, or a folder of them (default: nab in $UNROLL_DATA)")
      ->check(CLI::ExistingPath);
  CLI11_PARSE(app, argc, argv);
  if (quick && epochs->count() == 0) options.epochs = 10;
  const char* data = std::getenv("UNROLL_DATA");
  std::filesystem::path place = given;
  if (given.empty() && data != nullptr) place = std::filesystem::path(data) / "nab";
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(place)) {
    for (const auto& file : std::filesystem::directory_iterator(place))
      if (file.path().extension() == ".csv") files.push_back(file.path());
    std::ranges::sort(files);
  } else if (std::filesystem::exists(place)) {
    files.push_back(place);
  }
  if (files.empty()) {
    if (!given.empty()) fail("anomaly", "found no .csv at " + given);
    std::printf("skipped: give a stream's CSV file or a folder of them, or nab in $UNROLL_DATA\n");
    return 0;
  }
  Count all;
  for (const auto& file : files) {
    const Count count = run(load(file), options);
    all.found += count.found;
    all.windows += count.windows;
    all.wrong += count.wrong;
  }
  std::printf("in all: %d of %d windows found, %d false alarms\n", all.found, all.windows,
              all.wrong);
  return quick && all.windows > 0 && all.found == 0 ? 1 : 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
