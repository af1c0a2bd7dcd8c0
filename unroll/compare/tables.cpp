#include <fmt/format.h>
#include <unroll/compare/compare.h>

#include <nlohmann/json.hpp>

namespace unroll {
namespace {

using Json = nlohmann::json;

std::string real(const Json& value, int digits) {
  return value.is_null() ? "-" : fmt::format("{:.{}f}", value.get<double>(), digits);
}

std::string megabytes(const Json& bytes) {
  return fmt::format("{:.1f}", bytes.get<double>() / (1 << 20));
}

// "1 in 3.2e5" reads worse than the ratio itself; below 1e-3 it needs an exponent.
std::string ratio(double value) {
  return value == 0 || value >= 1e-3 ? fmt::format("{:.4f}", value) : fmt::format("{:.1e}", value);
}

std::string training_table(const Json& r) {
  std::string text =
      fmt::format("{} on {} ({})\n", "Training", r["task"]["source"].get<std::string>(),
                  r["task"]["metric"].get<std::string>());
  text += fmt::format("{:<13}{:>11}{:>8}{:>12}{:>11}{:>11}{:>13}\n", "model", "parameters", "steps",
                      "best loss", "seconds", "tokens/s", "peak MiB");
  for (const Json& m : r["models"]) {
    double seconds = 0;
    for (const Json& run : m["runs"])
      seconds += run["seconds"].get<double>() / static_cast<double>(m["runs"].size());
    text += fmt::format("{:<13}{:>11}{:>8}{:>12}{:>11.1f}{:>11.0f}{:>13}\n",
                        m["name"].get<std::string>(), m["parameters"].get<std::int64_t>(),
                        m["runs"][0]["steps"].get<std::int64_t>(), real(m["best_loss"], 4), seconds,
                        m["tokens_per_second"].get<double>(), megabytes(m["peak_training_bytes"]));
  }
  return text + fmt::format("knowing nothing: {:.4f}\n", r["task"]["uniform_loss"].get<double>());
}

std::string flow_table(const Json& r) {
  const Json& probe = r["probes"]["gradient_flow"];
  std::string text = "Gradient flow: |d loss_T / d state_(T-k)| over that of k = 0\n";
  text += fmt::format("{:<26}{:>12}{:>12}{:>12}{:>12}\n", "model", "k = 1", "k = 10", "k = 20",
                      "k = 50");
  for (const Json& curve : probe["curves"]) {
    const auto norms = curve["norms"].get<std::vector<double>>();
    text += fmt::format(
        "{:<26}", curve["model"].get<std::string>() + ", " + curve["when"].get<std::string>());
    for (std::size_t k : {1, 10, 20, 50})
      text += fmt::format("{:>12}",
                          k < norms.size() && norms[0] > 0 ? ratio(norms[k] / norms[0]) : "-");
    text += '\n';
  }
  return text;
}

std::string scaling_table(const Json& r) {
  const Json& models = r["probes"]["scaling"]["models"];
  std::string text = "Scaling of a training step: ms | MiB by length, and fitted exponents\n";
  text += fmt::format("{:<13}", "model");
  for (const Json& p : models[0]["points"])
    text += fmt::format("{:>16}", p["length"].get<std::int64_t>());
  text += fmt::format("{:>9}{:>9}\n", "time", "memory");
  for (const Json& m : models) {
    text += fmt::format("{:<13}", m["model"].get<std::string>());
    for (const Json& p : m["points"])
      text += fmt::format("{:>16}", fmt::format("{:.1f} | {}", p["seconds"].get<double>() * 1e3,
                                                megabytes(p["bytes"])));
    text += fmt::format("{:>9.2f}{:>9.2f}\n", m["time_exponent"].get<double>(),
                        m["memory_exponent"].get<double>());
  }
  return text;
}

std::string streaming_table(const Json& r) {
  std::string text = "Streaming: one more step at a position, us (state, KiB)\n";
  std::string model;
  for (const Json& p : r["probes"]["streaming"]["points"]) {
    if (p["model"] != model) {
      model = p["model"];
      text += fmt::format("{}{:<13}", text.back() == '\n' ? "" : "\n", model);
    }
    text +=
        fmt::format("{:>24}", fmt::format("{}: {:.0f} ({:.1f})", p["position"].get<std::int64_t>(),
                                          p["microseconds"].get<double>(),
                                          p["state_bytes"].get<double>() / 1024));
  }
  return text + "\n";
}

std::string adding_table(const Json& r) {
  const Json& probe = r["probes"]["adding"];
  std::string text =
      fmt::format("Adding problem: mean squared error by length (predicting 1: {:.4f})\n",
                  probe["baseline"].get<double>());
  std::string model;
  for (const Json& p : probe["points"]) {
    if (p["model"] != model) {
      model = p["model"];
      text += fmt::format("{}{:<13}", text.back() == '\n' ? "" : "\n", model);
    }
    text += fmt::format(
        "{:>18}", fmt::format("T {}: {}", p["length"].get<std::int64_t>(), real(p["mse"], 4)));
  }
  return text + "\n";
}

}  // namespace

std::string tables(const Json& results) {
  check_results(results);
  return training_table(results) + "\n" + flow_table(results) + "\n" + scaling_table(results) +
         "\n" + streaming_table(results) + "\n" + adding_table(results);
}

}  // namespace unroll
