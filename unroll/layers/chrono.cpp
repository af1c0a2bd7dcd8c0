#include <fmt/format.h>
#include <unroll/layers/chrono.h>
#include <unroll/ops/check.h>

#include <cmath>

namespace unroll {
namespace {

// bias_ih_l0, bias_hh_l0, ... hold one run of `hidden` numbers a gate: i f g o, or r z n.
void fill_gate(Parameter& bias, std::int64_t gate, const std::vector<double>& values) {
  with_float("chrono_init", bias.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* place = bias.mutable_value().template mutable_ptr<T>() + gate * std::ssize(values);
    for (const double value : values) *place++ = static_cast<T>(value);
  });
}

}  // namespace

void chrono_init(RecurrentLayer& layer, std::int64_t longest, GeneratorRef generator) {
  const bool lstm = dynamic_cast<const LSTM*>(&layer) != nullptr;
  if (!lstm && dynamic_cast<const GRU*>(&layer) == nullptr)
    fail("chrono_init", fmt::format("{} has no gates", layer.describe()), "It is for LSTM and GRU");
  if (longest < 3)
    fail("chrono_init", fmt::format("dependencies of up to {} steps", longest),
         "Give the number of steps that the longest one spans, 3 or more");
  bool any = false;
  for (auto& [name, bias] : layer.named_parameters()) {
    if (!name.starts_with("bias_")) continue;
    any = true;
    const std::int64_t hidden = bias.numel() / (lstm ? 4 : 3);
    std::vector<double> remember(static_cast<std::size_t>(hidden), 0.0), admit = remember;
    if (name.starts_with("bias_ih"))
      for (std::size_t unit = 0; unit < remember.size(); ++unit) {
        remember[unit] = std::log(1 + generator->uniform() * (static_cast<double>(longest) - 2));
        admit[unit] = 0 - remember[unit];
      }
    fill_gate(bias, 1, remember);  // f of i f g o, z of r z n
    if (lstm) fill_gate(bias, 0, admit);
  }
  if (!any) fail("chrono_init", fmt::format("{} has no biases", layer.describe()));
}

}  // namespace unroll
