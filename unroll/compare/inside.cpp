#include <fmt/format.h>
#include <unroll/compare/inside.h>
#include <unroll/compare/inside_run.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/index.h>

#include <algorithm>
#include <cmath>

namespace unroll {
namespace {

// |gradient| of each step of grad [T, B, D].
std::vector<double> norms_by_step(const Tensor& grad) {
  const Tensor exact = grad.to(DType::f64);
  const auto values = exact.data<double>();
  const auto steps = static_cast<std::size_t>(grad.size(0)), each = values.size() / steps;
  std::vector<double> norms;
  for (std::size_t t = 0; t < steps; ++t) {
    double sum = 0;
    for (const double v : values.subspan(t * each, each)) sum += v * v;
    norms.push_back(std::sqrt(sum));
  }
  return norms;
}

}  // namespace

std::vector<std::vector<GateValues>> gates_along(SequenceModel& model, const Tensor& x) {
  const detail::Evaluating evaluating(model);
  const NoGrad constant;
  const ModelParts parts = model.parts();
  std::vector<std::vector<GateValues>> layers;
  Tensor below = parts.enter(model.embed(x));
  for (const ModelLayer& layer : parts.layers) {
    const detail::LayerRun run = detail::run_steps(layer, unbind(below));
    std::vector<std::vector<Tensor>> values;
    std::vector<GateValues> gates;
    for (std::size_t t = 0; t < run.inputs.size(); ++t) {
      const std::vector<Gate> now = layer.cell->gates(run.inputs[t], run.states[t]);
      if (now.empty())
        fail("gates_along", fmt::format("a {} has no gates", layer.cell->describe()),
             "All recurrent models but the RNN have");
      values.resize(now.size());
      for (std::size_t k = 0; k < now.size(); ++k) {
        if (t == 0) gates.push_back({now[k].name, now[k].keeps, {}});
        values[k].push_back(now[k].value);
      }
    }
    for (std::size_t k = 0; k < gates.size(); ++k) gates[k].values = stack(values[k]);
    layers.push_back(std::move(gates));
    below = stack(run.outputs);
  }
  return layers;
}

std::vector<double> memory_horizon(const Tensor& kept) {
  if (kept.rank() != 3 || kept.numel() == 0)
    fail_shape("memory_horizon",
               fmt::format("gates are {}, expected [T, B, H]", to_string(kept.shape())));
  const Tensor exact = kept.to(DType::f64);
  const auto values = exact.data<double>();
  const auto units = static_cast<std::size_t>(kept.size(2)), rows = values.size() / units;
  std::vector<double> horizon(units, 0.0);
  for (std::size_t i = 0; i < values.size(); ++i) horizon[i % units] += std::log(values[i]);
  // A gate that was 0 once keeps nothing: -1 / -infinity is 0, as it should be.
  for (double& one : horizon) one = one == 0 ? INFINITY : -static_cast<double>(rows) / one;
  return horizon;
}

std::vector<double> histogram(const Tensor& values, double low, double high, std::size_t bins) {
  if (bins == 0 || !(low < high))
    fail("histogram", fmt::format("{} bins from {} to {}", bins, low, high));
  std::vector<double> share(bins, 0.0);
  const Tensor exact = values.to(DType::f64);
  const double each = 1.0 / static_cast<double>(std::max<std::int64_t>(1, values.numel()));
  for (const double v : exact.data<double>()) {
    if (std::isnan(v)) continue;
    const double place = (v - low) / (high - low) * static_cast<double>(bins);
    share[static_cast<std::size_t>(std::clamp(place, 0.0, static_cast<double>(bins - 1)))] += each;
  }
  return share;
}

LayerFlow layer_gradient_flow(SequenceModel& model, const Tensor& x,
                              const std::function<Tensor(const Tensor&)>& loss) {
  const detail::Evaluating evaluating(model);
  const ModelParts parts = model.parts();
  Tape tape;
  // Each layer's outputs, as one value [T, B, D] or one a step.
  std::vector<std::vector<Tensor>> outputs{{tape.watch(parts.enter(model.embed(x)))}};
  Tensor below = outputs[0][0];
  for (const ModelLayer& layer : parts.layers) {
    if (layer.run) {
      below = layer.run(below);
      outputs.push_back({below});
    } else {
      outputs.push_back(detail::run_steps(layer, unbind(below)).outputs);
      below = stack(outputs.back());
    }
  }
  const Tensor result = loss(parts.head(below));
  std::vector<Tensor> wrt;
  for (const auto& layer : outputs) wrt.insert(wrt.end(), layer.begin(), layer.end());
  const std::vector<Tensor> grads = tape.gradient(result, wrt);
  const NoGrad constant;
  LayerFlow flow;
  auto next = grads.begin();
  for (const auto& layer : outputs) {
    const auto end = next + static_cast<std::ptrdiff_t>(layer.size());
    flow.norms.push_back(norms_by_step(
        layer.size() == 1 && next->rank() == 3 ? *next : stack(std::vector<Tensor>(next, end))));
    next = end;
  }
  return flow;
}

std::vector<Tensor> attention_maps(SequenceModel& model, const Tensor& x) {
  const detail::Evaluating evaluating(model);
  const NoGrad constant;
  const ModelParts parts = model.parts();
  std::vector<Tensor> maps;
  Tensor below = parts.enter(model.embed(x));
  for (const ModelLayer& layer : parts.layers) {
    if (!layer.attention)
      fail("attention_maps", fmt::format("a {} has no attention", model.describe()),
           "Transformers have");
    maps.push_back(layer.attention(below));
    below = layer.run(below);
  }
  return maps;
}

std::vector<ContextPoint> effective_context(SequenceModel& model, const Tensor& x,
                                            std::span<const std::int64_t> contexts,
                                            const std::function<Tensor(const Tensor&)>& loss) {
  const detail::Evaluating evaluating(model);
  const NoGrad constant;
  const std::int64_t steps = x.size(0);
  std::vector<ContextPoint> points;
  for (const std::int64_t k : contexts) {
    if (k < 1 || k > steps)
      fail("effective_context", fmt::format("a context of {} in windows of {} steps", k, steps));
    const Tensor output = model(x.rows(steps - k, steps)).output;
    points.push_back({k, loss(output.row(k - 1)).item()});
  }
  return points;
}

}  // namespace unroll
