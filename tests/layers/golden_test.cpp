// Layers against what PyTorch computed, or NumPy from the papers' equations: tests/golden/layers.py
// and state_space.py wrote the files.

#include <unroll/graph/tape.h>
#include <unroll/io/safetensors.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/mamba.h>
#include <unroll/layers/minimal.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/rwkv.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/loss.h>
#include <unroll/ops/reduce.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "../catch.h"

using namespace unroll;

namespace {

using Values = std::map<std::string, Tensor>;

// A layer made ready: inputs by name -> outputs by name.
struct Subject {
  std::unique_ptr<Module> module;
  std::function<Values(const Values&)> call;
};

Tensor optional(const Values& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? Tensor() : found->second;
}

template <class Run>
Values run_recurrent(const Values& in, const Run& run) {
  RecurrentCall call{.lengths = optional(in, "lengths")};
  for (const char* name : {"state0", "state1", "state2"})
    if (in.contains(name)) call.state.push_back(in.at(name));
  const Output result = run(in.at("x"), call);
  Values out{{"output", result.output}};
  for (std::size_t k = 0; k < result.state.size(); ++k)
    out["state" + std::to_string(k)] = result.state[k];
  return out;
}

template <class Layer, class Options>
Subject recurrent(const Options& options) {
  auto layer = std::make_unique<Layer>(options);
  Layer& one = *layer;
  return {std::move(layer), [&one](const Values& in) {
            return run_recurrent(
                in, [&](const Tensor& x, const RecurrentCall& call) { return one(x, call); });
          }};
}

template <class Cell, class Options>
Subject parallel(const Options& options) {
  auto cell = std::make_unique<Cell>(options);
  Cell& one = *cell;
  return {std::move(cell), [&one](const Values& in) {
            return run_recurrent(
                in, [&](const Tensor& x, const RecurrentCall& call) { return one.run(x, call); });
          }};
}

Subject recurrent(const std::string& name) {
  const int layers = name.find("_3") == std::string::npos ? 1 : 3;
  const auto common = [&](auto options) {
    options.input_size = 3;
    options.hidden_size = 4;
    options.num_layers = layers;
    options.bidirectional = layers == 3;
    return options;
  };
  if (name.starts_with("rnn"))
    return recurrent<RNN>(common(RNNOptions{.relu = name.starts_with("rnn_relu")}));
  if (name.starts_with("gru")) return recurrent<GRU>(common(GRUOptions{}));
  return recurrent<LSTM>(common(LSTMOptions{.proj_size = name.starts_with("lstm_proj") ? 2 : 0}));
}

Subject attention(bool causal, bool bias) {
  auto layer = std::make_unique<MultiHeadAttention>(
      MultiHeadAttentionOptions{.embed_dim = 8, .num_heads = 2, .bias = bias});
  MultiHeadAttention& one = *layer;
  return {std::move(layer), [&one, causal](const Values& in) {
            const MultiHeadAttentionOutput out =
                one(in.at("x"), {.memory = optional(in, "memory"),
                                 .causal = causal,
                                 .lengths = optional(in, "lengths"),
                                 .need_weights = true});
            return Values{{"output", out.output}, {"weights", out.weights}};
          }};
}

template <class Layer>
Subject transformer(bool pre, bool gelu) {
  auto layer = std::make_unique<Layer>(
      TransformerOptions{.d_model = 8,
                         .nhead = 2,
                         .dim_feedforward = 12,
                         .num_layers = 2,
                         .activation = gelu ? FeedForward::gelu : FeedForward::relu,
                         .norm_first = pre});
  Layer& one = *layer;
  return {
      std::move(layer), [&one](const Values& in) {
        return Values{{"output", one(in.at("x"), {.causal = true,
                                                  .lengths = optional(in, "lengths"),
                                                  .memory = optional(in, "memory"),
                                                  .memory_lengths = optional(in, "memory_lengths")})
                                     .output}};
      }};
}

struct Classifier : Module {
  Embedding embed{7, 5};
  Linear head{5, 7};
  Classifier() {
    add("embed", embed);
    add("head", head);
  }
};

Subject subject(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  const MinimalCellOptions minimal{.input_size = 3, .hidden_size = 4};
  if (name.starts_with("mingru_block"))
    return parallel<MinimalBlock>(MinimalBlockOptions{.size = 3});
  if (name.starts_with("minlstm_block"))
    return parallel<MinimalBlock>(MinimalBlockOptions{.size = 3, .lstm = true});
  if (name.starts_with("mingru")) return parallel<MinGRU>(minimal);
  if (name.starts_with("minlstm")) return parallel<MinLSTM>(minimal);
  if (name.starts_with("mamba"))
    return parallel<MambaBlock>(
        MambaOptions{.d_model = 4, .d_state = 3, .d_conv = 3, .dt_rank = 2});
  if (name.starts_with("rwkv"))
    return parallel<RWKVBlock>(
        RWKVOptions{.size = 6, .heads = 2, .mix_rank = 2, .decay_rank = 3, .dim_feedforward = 8});
  if (name.starts_with("attention")) return attention(has("causal") || has("unb"), !has("unb"));
  if (name == "encoder_stack") return transformer<TransformerEncoder>(true, false);
  if (name.starts_with("encoder"))
    return transformer<TransformerEncoderLayer>(has("pre"), has("gelu"));
  if (name.starts_with("decoder"))
    return transformer<TransformerDecoderLayer>(has("pre"), has("pre"));
  if (name == "layer_norm") {
    auto layer = std::make_unique<LayerNorm>(NormOptions{.size = 8, .eps = 1e-3});
    LayerNorm& one = *layer;
    return {std::move(layer), [&one](const Values& in) {
              return Values{{"output", one(in.at("x"))}};
            }};
  }
  if (name.starts_with("classifier")) {
    auto model = std::make_unique<Classifier>();
    Classifier& one = *model;
    const bool smooth = has("smooth");
    return {std::move(model), [&one, smooth](const Values& in) {
              CrossEntropyOptions options;
              if (smooth) options = {.ignore_index = 6, .label_smoothing = 0.1};
              return Values{{"loss", cross_entropy(one.head(one.embed(in.at("tokens"))),
                                                   in.at("targets"), options)}};
            }};
  }
  return recurrent(name);
}

// The part of a file below a prefix, floats in the dtype of the test.
Values below(const Values& file, const std::string& prefix, DType dtype) {
  Values part;
  for (const auto& [name, value] : file)
    if (name.starts_with(prefix))
      part[name.substr(prefix.size())] = is_float(value.dtype()) ? value.to(dtype) : value;
  return part;
}

// The largest difference, as a share of the largest number.
double difference(const Tensor& got, const Tensor& expected) {
  if (!got.defined() || got.shape() != expected.shape()) return INFINITY;
  const Tensor a = got.to(DType::f64), b = expected.to(DType::f64);
  double worst = 0, scale = 1e-30;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    if (!(std::abs(x - y) <= worst)) worst = std::abs(x - y);
    scale = std::max(scale, std::abs(y));
  }
  return worst / scale;
}

void check(const std::string& name, DType dtype, double outputs_within, double grads_within) {
  CAPTURE(name);
  const Values file =
      load_safetensors(std::filesystem::path(UNROLL_TEST_DATA) / (name + ".safetensors"));
  const Subject layer = subject(name);
  layer.module->to(dtype);
  layer.module->load_state_dict(below(file, "param.", dtype));

  Tape tape;
  Values in = below(file, "in.", dtype);
  for (auto& [input, value] : in)
    if (is_float(value.dtype())) value = tape.watch(value);
  const Values out = layer.call(in);
  Tensor loss;
  for (const auto& [output, seed] : below(file, "seed.", dtype)) {
    const Tensor part = sum(out.at(output) * seed);
    loss = loss.defined() ? loss + part : part;
  }
  for (const auto& [output, expected] : below(file, "out.", dtype)) {
    CAPTURE(output);
    CHECK(difference(out.at(output), expected) < outputs_within);
  }
  for (const auto& [input, expected] : below(file, "ingrad.", dtype)) {
    CAPTURE(input);
    CHECK(difference(tape.gradient(loss, {in.at(input)})[0], expected) < grads_within);
  }
  tape.backward(loss);
  const Values grads = below(file, "grad.", dtype);
  CHECK(grads.size() == layer.module->named_parameters().size());
  for (const auto& [parameter, value] : layer.module->named_parameters()) {
    CAPTURE(parameter);
    REQUIRE(grads.contains(parameter));
    CHECK(difference(value.grad(), grads.at(parameter)) < grads_within);
  }
}

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(UNROLL_TEST_DATA))
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_CASE("layers compute the golden values and gradients in f64") {
  const std::vector<std::string> names = cases();
  REQUIRE(names.size() >= 47);
  for (const std::string& name : names) check(name, DType::f64, 1e-10, 1e-10);
}

TEST_CASE("layers compute the golden values and gradients in f32") {
  for (const std::string& name : cases()) check(name, DType::f32, 1e-5, 1e-4);
}
