#pragma once

#include <unroll/layers/recurrent.h>

#include <concepts>
#include <functional>
#include <memory>

namespace unroll {

/// Layers and functions one after the other; knows how to carry the state of those that have one:
///
///     Sequential model;
///     model.append<Embedding>(65, 128).append<LSTM>(LSTMOptions{128, 224}).append<Linear>(224,
///     65); auto [logits, state] = model(tokens); auto [more, next] = model(later_tokens, state);
class Sequential : public Module {
 public:
  /// Makes a layer in place; its name is its number, as in PyTorch.
  template <std::derived_from<Module> Layer, class... Arguments>
  Sequential& append(Arguments&&... arguments) {
    auto layer = std::make_unique<Layer>(std::forward<Arguments>(arguments)...);
    Layer& one = *layer;
    add(std::to_string(steps_.size()), one);
    layers_.push_back(std::move(layer));
    if constexpr (std::invocable<Layer&, const Tensor&, const State&>) {
      steps_.push_back({[&one](const Tensor& x, const State& state) -> Output {
                          return state.empty() ? Output(one(x)) : Output(one(x, state));
                        },
                        one.initial_state(1).size()});
    } else {
      steps_.push_back({[&one](const Tensor& x, const State&) -> Output {
                          return {one(x), {}};
                        },
                        0});
    }
    return *this;
  }
  /// A function of one tensor, such as an activation.
  Sequential& append(std::function<Tensor(const Tensor&)> function) {
    steps_.push_back({[f = std::move(function)](const Tensor& x, const State&) -> Output {
                        return {f(x), {}};
                      },
                      0});
    return *this;
  }

  /// `state` is what an earlier call returned, or empty. Throws Error where it has another number
  /// of tensors than the layers carry.
  Output operator()(const Tensor& x, const State& state = {}) const;
  std::size_t size() const { return steps_.size(); }
  std::string describe() const override { return "Sequential"; }

 private:
  struct Step {
    std::function<Output(const Tensor&, const State&)> run;
    std::size_t states;
  };
  std::vector<std::unique_ptr<Module>> layers_;
  std::vector<Step> steps_;
};

}  // namespace unroll
