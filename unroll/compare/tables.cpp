#include <fmt/format.h>
#include <unroll/compare/compare.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

// Measurements that were not finite are NaN in results just made, null in those read.
double measured(const Json& value) { return value.is_null() ? std::nan("") : value.get<double>(); }

std::string real(const Json& value, int digits) {
  const double x = measured(value);
  return std::isfinite(x) ? fmt::format("{:.{}f}", x, digits) : "-";
}

std::string megabytes(const Json& bytes) {
  return fmt::format("{:.1f}", bytes.get<double>() / (1 << 20));
}

// "1 in 3.2e5" reads worse than the ratio itself; below 1e-3 it needs an exponent.
std::string ratio(double value) {
  if (!std::isfinite(value)) return "-";
  return value == 0 || value >= 1e-3 ? fmt::format("{:.4f}", value) : fmt::format("{:.1e}", value);
}

std::string training_table(const Json& r) {
  std::string text =
      fmt::format("{} on {} ({})\n", "Training", r.at("task").at("source").get<std::string>(),
                  r.at("task").at("metric").get<std::string>());
  text += fmt::format("{:<13}{:>11}{:>8}{:>12}{:>11}{:>11}{:>13}\n", "model", "parameters", "steps",
                      "best loss", "seconds", "tokens/s", "peak MiB");
  for (const Json& m : r.at("models")) {
    double seconds = 0;
    for (const Json& run : m.at("runs"))
      seconds += run.at("seconds").get<double>() / static_cast<double>(m.at("runs").size());
    text += fmt::format("{:<13}{:>11}{:>8}{:>12}{:>11.1f}{:>11}{:>13}\n",
                        m.at("name").get<std::string>(), m.at("parameters").get<std::int64_t>(),
                        m.at("runs").at(0).at("steps").get<std::int64_t>(),
                        real(m.at("best_loss"), 4), seconds, real(m.at("tokens_per_second"), 0),
                        megabytes(m.at("peak_training_bytes")));
  }
  const Json& task = r.at("task");
  text += fmt::format("knowing nothing: {:.4f}\n", task.at("uniform_loss").get<double>());
  if (task.contains("persistence_loss"))
    text += fmt::format("repeating the last value: {}\n", real(task.at("persistence_loss"), 4));
  return text;
}

std::string flow_table(const Json& r) {
  const Json& probe = r.at("probes").at("gradient_flow");
  std::string text = "Gradient flow: |d loss_T / d state_(T-k)| over that of k = 0\n";
  text += fmt::format("{:<26}{:>12}{:>12}{:>12}{:>12}\n", "model", "k = 1", "k = 10", "k = 20",
                      "k = 50");
  for (const Json& curve : probe.at("curves")) {
    const Json& norms = curve.at("norms");
    text += fmt::format("{:<26}", curve.at("model").get<std::string>() + ", " +
                                      curve.at("when").get<std::string>());
    for (std::size_t k : {1, 10, 20, 50})
      text += fmt::format("{:>12}",
                          k < norms.size() ? ratio(measured(norms[k]) / measured(norms[0])) : "-");
    text += '\n';
  }
  return text;
}

std::string scaling_table(const Json& r) {
  const Json& models = r.at("probes").at("scaling").at("models");
  std::string text = "Scaling of a training step: ms | MiB by length, and fitted exponents\n";
  text += fmt::format("{:<13}", "model");
  if (models.empty()) return text + "\n";
  for (const Json& p : models.at(0).at("points"))
    text += fmt::format("{:>16}", p.at("length").get<std::int64_t>());
  text += fmt::format("{:>9}{:>9}\n", "time", "memory");
  for (const Json& m : models) {
    text += fmt::format("{:<13}", m.at("model").get<std::string>());
    for (const Json& p : m.at("points"))
      text += fmt::format("{:>16}", fmt::format("{:.1f} | {}", p.at("seconds").get<double>() * 1e3,
                                                megabytes(p.at("bytes"))));
    text += fmt::format("{:>9}{:>9}\n", real(m.at("time_exponent"), 2),
                        real(m.at("memory_exponent"), 2));
  }
  return text;
}

std::string streaming_table(const Json& r) {
  std::string text = "Streaming: one more step at a position, us (state, KiB)\n";
  std::string model;
  for (const Json& p : r.at("probes").at("streaming").at("points")) {
    if (p.at("model") != model) {
      model = p.at("model");
      text += fmt::format("{}{:<13}", text.back() == '\n' ? "" : "\n", model);
    }
    text += fmt::format(
        "{:>24}",
        fmt::format("{}: {:.0f} ({:.1f})", p.at("position").get<std::int64_t>(),
                    p.at("microseconds").get<double>(), p.at("state_bytes").get<double>() / 1024));
  }
  return text + "\n";
}

std::string adding_table(const Json& r) {
  const Json& probe = r.at("probes").at("adding");
  std::string text =
      fmt::format("Adding problem: mean squared error by length (predicting 1: {:.4f})\n",
                  probe.at("baseline").get<double>());
  std::string model;
  for (const Json& p : probe.at("points")) {
    if (p.at("model") != model) {
      model = p.at("model");
      text += fmt::format("{}{:<13}", text.back() == '\n' ? "" : "\n", model);
    }
    text += fmt::format("{:>18}", fmt::format("T {}: {}", p.at("length").get<std::int64_t>(),
                                              real(p.at("mse"), 4)));
  }
  return text + "\n";
}

// The mean over the seeds, by model and length.
std::string lengths_table(const Json& r) {
  const Json& probe = r.at("probes").at("lengths");
  std::string text = fmt::format(
      "{} by length ({}), trained up to {}\n{:<13}", probe.at("score").get<std::string>(),
      probe.at("counts").get<std::string>(), probe.at("trained").get<std::int64_t>(), "model");
  for (const Json& b : probe.at("baselines"))
    text += fmt::format("{:>18}", fmt::format("{} | exact", b.at("length").get<std::int64_t>()));
  text += '\n';
  for (const Json& m : r.at("models")) {
    text += fmt::format("{:<13}", m.at("name").get<std::string>());
    for (const Json& b : probe.at("baselines")) {
      double score = 0, exact = 0, count = 0;
      for (const Json& p : probe.at("points"))
        if (p.at("model") == m.at("name") && p.at("length") == b.at("length")) {
          score += measured(p.at("score"));
          exact += measured(p.at("exact"));
          ++count;
        }
      text += fmt::format("{:>18}", fmt::format("{} | {}", real(score / count, 4),
                                                real(100 * exact / count, 1) + " %"));
    }
    text += '\n';
  }
  text += fmt::format("{:<13}", "baseline");
  for (const Json& b : probe.at("baselines"))
    text += fmt::format("{:>9.4f}{:>9}", b.at("score").get<double>(), "");
  return text + fmt::format(" ({})\n", probe.at("baseline").get<std::string>());
}

std::string truncation_table(const Json& r) {
  const Json& probe = r.at("probes").at("truncation");
  std::string text = fmt::format(
      "Truncated back-propagation: best loss by k2, a gradient step every k1 = {} steps\n",
      probe.at("k1").get<std::int64_t>());
  std::string model;
  for (const Json& p : probe.at("points")) {
    if (p.at("model") != model) {
      model = p.at("model");
      text += fmt::format("{}{:<13}", text.back() == '\n' ? "" : "\n", model);
    }
    text += fmt::format(
        "{:>18}", fmt::format("k2 {}: {}", p.at("k2").get<std::int64_t>(), real(p.at("loss"), 4)));
  }
  return text + "\n";
}

}  // namespace

std::string tables(const Json& results) {
  check_results(results);
  const Json& probes = results.at("probes");
  std::string text = training_table(results);
  const auto append = [&](bool there, std::string (*table)(const Json&)) {
    if (there) text.append("\n").append(table(results));
  };
  append(!probes.at("gradient_flow").at("curves").empty(), flow_table);
  append(!probes.at("scaling").at("models").empty(), scaling_table);
  append(!probes.at("streaming").at("points").empty(), streaming_table);
  append(!probes.at("adding").at("points").empty(), adding_table);
  append(probes.contains("lengths"), lengths_table);
  append(probes.contains("truncation"), truncation_table);
  return text;
}

}  // namespace unroll
