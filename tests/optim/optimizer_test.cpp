#include <unroll/graph/threads.h>
#include <unroll/optim/adagrad.h>
#include <unroll/optim/adam.h>
#include <unroll/optim/rmsprop.h>
#include <unroll/optim/sgd.h>

#include <cstring>
#include <functional>
#include <limits>
#include <memory>

#include "../catch.h"
#include "../tensors.h"
#include "golden.h"

using namespace unroll;

namespace {

// The two parameters of tests/golden/optim.py.
struct Model {
  Parameter weight, bias;
  explicit Model(DType dtype = DType::f64)
      : weight(Tensor::from({0.5, -1.0, 2.0, -0.25, 0.0, 1.5}, {2, 3}).to(dtype)),
        bias(Tensor::from({0.1, -0.2, 0.3, -0.4}, {4}).to(dtype)) {}

  std::vector<Parameter> parameters() const { return {weight, bias}; }
  std::vector<double> values() const {
    std::vector<double> result;
    for (const Parameter& parameter : parameters()) {
      const Tensor wide = parameter.value().to(DType::f64);
      result.insert(result.end(), wide.data<double>().begin(), wide.data<double>().end());
    }
    return result;
  }
  // The gradient of tests/golden/optim.py.
  void set_gradients(int step) {
    for (Parameter parameter : parameters()) {
      Tensor grad = parameter.value().to(DType::f64).clone();
      for (std::int64_t i = 0; double& x : grad.mutable_data<double>())
        x = 0.3 * static_cast<double>(i++ % 3 + 1) * x - 0.1 * (step + 1);
      parameter.set_grad(grad.to(parameter.dtype()));
    }
    if (step == 2) bias.zero_grad();
  }
};

void train(Model& model, Optimizer& optimizer, int begin, int end) {
  for (int step = begin; step < end; ++step) {
    model.set_gradients(step);
    optimizer.step();
    optimizer.zero_grad();
  }
}

struct Case {
  const char* name;
  std::span<const double> golden;
  std::function<std::unique_ptr<Optimizer>(const Model&)> make;
};

template <class O, class Options>
Case a_case(const char* name, std::span<const double> golden, const Options& options) {
  return {name, golden,
          [=](const Model& model) { return std::make_unique<O>(model.parameters(), options); }};
}

std::vector<Case> cases() {
  return {
      a_case<SGD>("sgd", golden::sgd, SGDOptions{.learning_rate = 0.1}),
      a_case<SGD>("sgd_decay", golden::sgd_decay,
                  SGDOptions{.learning_rate = 0.1, .weight_decay = 0.05}),
      a_case<SGD>("sgd_momentum", golden::sgd_momentum,
                  SGDOptions{.learning_rate = 0.1, .momentum = 0.9, .dampening = 0.3}),
      a_case<SGD>(
          "sgd_nesterov", golden::sgd_nesterov,
          SGDOptions{
              .learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.05, .nesterov = true}),
      a_case<RMSprop>("rmsprop", golden::rmsprop, RMSpropOptions{}),
      a_case<RMSprop>("rmsprop_momentum", golden::rmsprop_momentum,
                      RMSpropOptions{.learning_rate = 0.02,
                                     .alpha = 0.9,
                                     .eps = 1e-3,
                                     .weight_decay = 0.05,
                                     .momentum = 0.8}),
      a_case<RMSprop>("rmsprop_centered", golden::rmsprop_centered,
                      RMSpropOptions{.centered = true}),
      a_case<RMSprop>("rmsprop_all", golden::rmsprop_all,
                      RMSpropOptions{.momentum = 0.5, .centered = true}),
      a_case<Adam>("adam", golden::adam, AdamOptions{}),
      a_case<Adam>(
          "adam_decay", golden::adam_decay,
          AdamOptions{
              .learning_rate = 0.02, .betas = {0.8, 0.95}, .eps = 1e-4, .weight_decay = 0.1}),
      a_case<Adam>("adam_amsgrad", golden::adam_amsgrad,
                   AdamOptions{.learning_rate = 0.02, .betas = {0.5, 0.6}, .amsgrad = true}),
      a_case<AdamW>("adamw", golden::adamw, AdamWOptions{}),
      a_case<AdamW>("adamw_decay", golden::adamw_decay,
                    AdamWOptions{.learning_rate = 0.02, .betas = {0.9, 0.99}, .weight_decay = 0.5}),
      a_case<AdamW>("adamw_amsgrad", golden::adamw_amsgrad,
                    AdamWOptions{.learning_rate = 0.02, .betas = {0.5, 0.6}, .amsgrad = true}),
      a_case<Adagrad>("adagrad", golden::adagrad, AdagradOptions{}),
      a_case<Adagrad>("adagrad_decay", golden::adagrad_decay,
                      AdagradOptions{.learning_rate = 0.1,
                                     .learning_rate_decay = 0.2,
                                     .weight_decay = 0.05,
                                     .initial_accumulator_value = 0.3,
                                     .eps = 1e-4}),
  };
}

}  // namespace

TEST_CASE("optimizers do what PyTorch's do", "[optim]") {
  for (const Case& each : cases()) {
    DYNAMIC_SECTION(each.name) {
      for (const auto& [dtype, error] : {std::pair(DType::f64, 1e-14), {DType::f32, 2e-6}}) {
        Model model(dtype);
        const auto optimizer = each.make(model);
        train(model, *optimizer, 0, 5);
        const std::vector<double> values = model.values();
        REQUIRE(values.size() == each.golden.size());
        for (std::size_t i = 0; i < values.size(); ++i) {
          INFO(to_string(dtype) << ", element " << i);
          CHECK(std::abs(values[i] - each.golden[i]) <= error * (1 + std::abs(each.golden[i])));
        }
      }
    }
  }
}

TEST_CASE("a resumed optimizer continues bit for bit", "[optim]") {
  for (const Case& each : cases()) {
    DYNAMIC_SECTION(each.name) {
      for (const DType dtype : {DType::f32, DType::f64}) {
        Model model(dtype), resumed(dtype);
        const auto whole = each.make(model);
        train(model, *whole, 0, 2);
        whole->set_learning_rate(0.03);
        train(model, *whole, 2, 3);
        const auto state = whole->state_dict();
        resumed.weight.set_value(model.weight.value());
        resumed.bias.set_value(model.bias.value());
        train(model, *whole, 3, 6);  // does not reach into the state taken before

        const auto second = each.make(resumed);
        second->load_state_dict(state);
        CHECK(second->learning_rate() == 0.03);
        train(resumed, *second, 3, 6);
        CHECK(model.values() == resumed.values());
      }
    }
  }
}

TEST_CASE("a state that does not fit is refused and changes nothing", "[optim]") {
  Model model;
  Adam optimizer(model.parameters());
  train(model, optimizer, 0, 2);
  const auto good = optimizer.state_dict();
  const auto before = model.values();

  auto state = good;
  SECTION("missing") { state.erase("1.exp_avg_sq"); }
  SECTION("unknown") { state["1.momentum_buffer"] = Tensor::zeros({4}, DType::f64); }
  SECTION("shape") { state["0.exp_avg"] = Tensor::zeros({3, 2}, DType::f64); }
  SECTION("dtype") { state["0.exp_avg"] = Tensor::zeros({2, 3}, DType::i64); }
  SECTION("undefined") { state["0.exp_avg"] = Tensor(); }
  SECTION("abstract") { state["0.exp_avg"] = Tensor::abstract({2, 3}, DType::f64); }
  SECTION("count of parameters") { state["steps"] = Tensor::from({std::int64_t{2}}, {1}); }
  SECTION("negative step") {
    state["steps"] = Tensor::from({std::int64_t{2}, std::int64_t{-1}}, {2});
  }
  SECTION("rate") { state["learning_rate"] = Tensor::full({}, -1, DType::f64); }
  SECTION("empty") { state.clear(); }
  SECTION("another optimizer's") {
    Model other;
    SGD sgd(other.parameters(), {.learning_rate = 0.5, .momentum = 0.9});
    train(other, sgd, 0, 2);
    state = sgd.state_dict();
  }
  CHECK_THROWS_AS(optimizer.load_state_dict(state), Error);

  CHECK(optimizer.learning_rate() == 1e-3);
  const auto after = optimizer.state_dict();
  CHECK(same_bits(after, good));
  CHECK(model.values() == before);
}

TEST_CASE("groups have rates and decays of their own", "[optim]") {
  Model model, same;
  AdamW optimizer({{.parameters = {model.weight}, .learning_rate = 0.02, .weight_decay = 0.5},
                   {.parameters = {model.bias}}},
                  {.learning_rate = 0.01, .weight_decay = 0.1});
  AdamW weight(std::vector{same.weight}, {.learning_rate = 0.02, .weight_decay = 0.5});
  AdamW bias(std::vector{same.bias}, {.learning_rate = 0.01, .weight_decay = 0.1});
  for (int step = 0; step < 4; ++step) {
    if (step == 2) {  // the group's rate stays twice the optimizer's
      optimizer.set_learning_rate(0.04);
      weight.set_learning_rate(0.08);
      bias.set_learning_rate(0.04);
    }
    model.set_gradients(step);
    same.set_gradients(step);
    optimizer.step();
    weight.step();
    bias.step();
  }
  CHECK(model.values() == same.values());
  const auto groups = optimizer.groups();
  REQUIRE(groups.size() == 2);
  CHECK(groups[0].learning_rate == 0.08);
  CHECK(groups[1].weight_decay == 0.1);
  CHECK(groups[1].parameters.front().id() == model.bias.id());
}

TEST_CASE("decay_groups spares vectors", "[optim]") {
  Model model;
  const auto groups = decay_groups({{"weight", model.weight}, {"bias", model.bias}});
  REQUIRE(groups.size() == 2);
  CHECK(groups[0].parameters.front().id() == model.weight.id());
  CHECK(groups[1].parameters.front().id() == model.bias.id());
  CHECK(groups[1].weight_decay == 0);
  const AdamW optimizer(groups, {.weight_decay = 0.1});
  CHECK(optimizer.groups()[0].weight_decay == 0.1);
  CHECK(optimizer.groups()[1].weight_decay == 0);
}

TEST_CASE("decay_groups spares matrices of rates", "[optim]") {
  const Parameter matrix(Tensor::zeros({2, 3}));
  for (const char* name : {"A_log", "layers.0.mixer.A_log", "blocks.1.att.time_faaaa"})
    CHECK(decay_groups({{name, matrix}})[1].parameters.size() == 1);
  for (const char* name : {"layers.0.mixer.x_proj.weight", "time_embedding.weight"})
    CHECK(decay_groups({{name, matrix}})[0].parameters.size() == 1);
}

TEST_CASE("a step that fails changes nothing", "[optim]") {
  Model model;
  Adam optimizer(model.parameters());
  train(model, optimizer, 0, 1);
  const auto before = model.values();
  model.set_gradients(1);
  SECTION("shape") { model.bias.set_grad(Tensor::zeros({5}, DType::f64)); }
  SECTION("dtype") { model.bias.set_grad(Tensor::zeros({4}, DType::f32)); }
  SECTION("abstract") { model.bias.set_grad(Tensor::abstract({4}, DType::f64)); }
  CHECK_THROWS_AS(optimizer.step(), Error);
  CHECK(model.values() == before);
  CHECK(optimizer.state_dict().at("steps").data<std::int64_t>()[0] == 1);
}

TEST_CASE("what somebody else still reads keeps its value", "[optim]") {
  Model model;
  const Tensor held = model.weight.value();
  const std::uint64_t version = model.weight.state()->version;
  SGD optimizer(model.parameters(), {.learning_rate = 1});
  train(model, optimizer, 0, 1);
  CHECK(held.data<double>()[0] == 0.5);
  CHECK(model.weight.value().data<double>()[0] != 0.5);
  CHECK(model.weight.state()->version > version);
}

TEST_CASE("parameters without gradient or frozen stay", "[optim]") {
  Model model;
  SGD optimizer(model.parameters(), {.learning_rate = 1, .weight_decay = 1});
  optimizer.step();
  CHECK(model.values() == Model().values());
  model.set_gradients(0);
  model.weight.set_trainable(false);
  optimizer.step();
  CHECK(model.values()[0] == 0.5);
  CHECK(model.values()[6] != 0.1);
}

TEST_CASE("moments count as optimizer memory and come once", "[optim]") {
  const int kind = static_cast<int>(MemoryKind::optimizer);
  const std::int64_t before = memory_stats().live_by_kind[kind];
  {
    Parameter parameter(Tensor::zeros({1000}));
    AdamW optimizer({parameter});
    CHECK(memory_stats().live_by_kind[kind] == before);
    parameter.set_grad(Tensor::full({1000}, 1));
    optimizer.step();
    CHECK(memory_stats().live_by_kind[kind] >= before + 8000);
    const std::int64_t allocations = memory_stats().allocations;
    optimizer.step();
    CHECK(memory_stats().allocations == allocations);
  }
  CHECK(memory_stats().live_by_kind[kind] == before);
}

TEST_CASE("one thread equals two, also where moments are denormal", "[optim]") {
  std::vector<float> results[2];
  for (int count : {1, 2}) {
    set_threads(count);
    const std::int64_t size = 100'003;
    Parameter parameter(Tensor::full({size}, 1));
    AdamW optimizer({parameter});
    Tensor grad = Tensor::empty({size});
    for (std::int64_t i = 0; float& x : grad.mutable_data<float>())
      x = std::ldexp(1.0f, -static_cast<int>(i++ % 140));
    for (int step = 0; step < 3; ++step) {
      parameter.set_grad(grad);
      optimizer.step();
    }
    const auto values = parameter.value().data<float>();
    results[count - 1].assign(values.begin(), values.end());
  }
  set_threads(1);
  CHECK(results[0] == results[1]);
}

TEST_CASE("optimizers refuse what makes no sense", "[optim]") {
  Model model;
  const auto all = model.parameters();
  CHECK_THROWS_AS(SGD(std::vector<Parameter>{}), Error);
  CHECK_THROWS_AS(SGD({model.weight, model.weight}), Error);
  CHECK_THROWS_AS(SGD({Parameter()}), Error);
  CHECK_THROWS_AS(SGD({Parameter(Tensor::zeros({2}, DType::i64))}), Error);
  CHECK_THROWS_AS(SGD(all, {.learning_rate = -1}), Error);
  CHECK_THROWS_AS(SGD(all, {.learning_rate = std::nan("")}), Error);
  CHECK_THROWS_AS(SGD(all, {.nesterov = true}), Error);
  CHECK_THROWS_AS(SGD(all, {.weight_decay = -0.1}), Error);
  CHECK_THROWS_AS(Adam(all, {.betas = {0.9, 1.0}}), Error);
  CHECK_THROWS_AS(RMSprop(all, {.alpha = 2}), Error);
  CHECK_THROWS_AS(Adagrad(all, {.eps = -1}), Error);
  Adam optimizer(all);
  CHECK_THROWS_AS(optimizer.set_learning_rate(std::numeric_limits<double>::infinity()), Error);
  CHECK(optimizer.learning_rate() == 1e-3);
}
