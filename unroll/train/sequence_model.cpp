#include <fmt/format.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/linear.h>
#include <unroll/layers/positions.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/layout.h>
#include <unroll/train/sequence_model.h>

#include <cmath>
#include <cstdlib>

namespace unroll {
namespace {

constexpr ModelKind kinds[] = {ModelKind::rnn, ModelKind::lstm, ModelKind::gru,
                               ModelKind::transformer};

std::int64_t outputs_of(const ModelConfig& c) { return c.outputs > 0 ? c.outputs : c.vocabulary; }

// Tokens through a table, real features through a matrix.
struct Input {
  std::unique_ptr<Embedding> table;
  std::unique_ptr<Linear> matrix;

  Input(const ModelConfig& c, std::int64_t size, GeneratorRef& generator) {
    if (c.vocabulary > 0) {
      table = std::make_unique<Embedding>(c.vocabulary, size, generator);
    } else {
      matrix = std::make_unique<Linear>(c.features, size, generator);
    }
  }
  Module& module() { return table ? static_cast<Module&>(*table) : *matrix; }
  Tensor operator()(const Tensor& x) const { return table ? (*table)(x) : (*matrix)(x); }
};

// embed -> rnn -> head
class RecurrentModel : public SequenceModel {
 public:
  RecurrentModel(const ModelConfig& c, GeneratorRef g)
      : input_(c, c.embedding, g), rnn_(make_rnn(c, g)), head_(c.hidden, outputs_of(c), g) {
    if (c.tied) {
      if (!input_.table || c.embedding != c.hidden)
        fail("model", "a tied head needs tokens and embedding = hidden");
      head_.weight = input_.table->weight;
    }
    add("embed", input_.module());
    add("rnn", *rnn_);
    add("head", head_);
  }
  Tensor embed(const Tensor& x) override { return input_(x); }
  Output run(const Tensor& embedded, const State& state) override {
    Output result = (*rnn_)(embedded, state);
    result.output = head_(result.output);
    return result;
  }
  bool constant_state() const override { return true; }
  std::string describe() const override { return "RecurrentModel"; }

 private:
  static std::unique_ptr<RecurrentLayer> make_rnn(const ModelConfig& c, GeneratorRef& g) {
    switch (c.kind) {
      case ModelKind::rnn:
        return std::make_unique<RNN>(RNNOptions{.input_size = c.embedding,
                                                .hidden_size = c.hidden,
                                                .num_layers = c.layers,
                                                .bias = c.bias,
                                                .dropout = c.dropout},
                                     g);
      case ModelKind::gru:
        return std::make_unique<GRU>(GRUOptions{.input_size = c.embedding,
                                                .hidden_size = c.hidden,
                                                .num_layers = c.layers,
                                                .bias = c.bias,
                                                .dropout = c.dropout},
                                     g);
      default:
        return std::make_unique<LSTM>(LSTMOptions{.input_size = c.embedding,
                                                  .hidden_size = c.hidden,
                                                  .num_layers = c.layers,
                                                  .bias = c.bias,
                                                  .dropout = c.dropout},
                                      g);
    }
  }

  Input input_;
  std::unique_ptr<RecurrentLayer> rnn_;
  Linear head_;
};

// embed (+ positions) -> pre-norm encoder layers with a causal mask -> head: a GPT.
class TransformerModel : public SequenceModel {
 public:
  TransformerModel(const ModelConfig& c, GeneratorRef g)
      : config_(c),
        input_(c, c.hidden, g),
        encoder_({.d_model = c.hidden,
                  .nhead = c.heads,
                  .num_layers = c.layers,
                  .dropout = c.dropout,
                  .activation = FeedForward::gelu,
                  .norm_first = true,
                  .bias = c.bias,
                  .rotary = c.positions == Positions::rotary},
                 g),
        head_({.in_features = c.hidden, .out_features = outputs_of(c), .bias = c.bias}, g) {
    if (c.tied) {
      if (!input_.table) fail("model", "a tied head needs tokens");
      head_.weight = input_.table->weight;
    }
    add("embed", input_.module());
    if (c.positions == Positions::learned) {
      positions_ = std::make_unique<LearnedPositions>(c.context, c.hidden, g);
      add("positions", *positions_);
    }
    add("encoder", encoder_);
    add("head", head_);
    initialize(g);
  }
  Tensor embed(const Tensor& x) override { return input_(x); }
  Output run(const Tensor& embedded, const State& state) override {
    const std::int64_t steps = embedded.size(0), past = state.empty() ? 0 : state[0].size(0);
    Tensor x = embedded;
    if (positions_) x = x + unsqueeze((*positions_)(steps, past), 1);
    if (config_.positions == Positions::sinusoidal)
      x = x + sinusoidal_positions(steps, config_.hidden, past, x.dtype())
                  .viewed({steps, 1, config_.hidden});
    Output result = encoder_(x, {.causal = true, .cache = state});
    result.output = head_(result.output);
    return result;
  }
  bool constant_state() const override { return false; }
  std::string describe() const override { return "TransformerModel"; }

 private:
  // GPT-2's: normal(0, 0.02), residual projections scaled by 1/sqrt(2 layers), biases 0.
  void initialize(GeneratorRef& g) {
    const double residual = 0.02 / std::sqrt(2.0 * config_.layers);
    for (auto& [name, parameter] : named_parameters()) {
      if (parameter.shape().rank() > 1) {
        const bool into_residual =
            name.ends_with("out_proj.weight") || name.ends_with("linear2.weight");
        parameter.set_value(g->normal(parameter.shape(), 0.0, into_residual ? residual : 0.02));
      } else if (name.ends_with("bias")) {
        parameter.set_value(Tensor::zeros(parameter.shape()));
      }
    }
    // Real inputs have no table: 0.02 would drown them beside a vocabulary's worth of norms.
    if (input_.matrix)
      input_.matrix->weight.set_value(
          g->normal(input_.matrix->weight.shape(), 0.0,
                    1.0 / std::sqrt(static_cast<double>(input_.matrix->weight.shape()[1]))));
  }

  ModelConfig config_;
  Input input_;
  std::unique_ptr<LearnedPositions> positions_;
  TransformerEncoder encoder_;
  Linear head_;
};

}  // namespace

const char* to_string(ModelKind kind) {
  switch (kind) {
    case ModelKind::rnn:
      return "rnn";
    case ModelKind::lstm:
      return "lstm";
    case ModelKind::gru:
      return "gru";
    case ModelKind::transformer:
      return "transformer";
  }
  return "?";
}

ModelKind model_kind(const std::string& name) {
  std::string known;
  for (ModelKind kind : kinds) {
    if (name == to_string(kind)) return kind;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", to_string(kind));
  }
  fail("model", fmt::format("no model is named '{}'", name), "Known: " + known);
}

std::unique_ptr<SequenceModel> make_model(const ModelConfig& c, GeneratorRef generator) {
  if ((c.vocabulary > 0) == (c.features > 0))
    fail("model", fmt::format("either vocabulary or features must be positive, got {} and {}",
                              c.vocabulary, c.features));
  if (outputs_of(c) < 1) fail("model", "outputs must be positive");
  if (c.kind == ModelKind::transformer) return std::make_unique<TransformerModel>(c, generator);
  return std::make_unique<RecurrentModel>(c, generator);
}

ModelConfig sized(ModelConfig config, std::int64_t parameters) {
  const std::int64_t unit = config.kind == ModelKind::transformer ? 2 * config.heads : 1;
  const auto count = [&](std::int64_t units) {
    config.hidden = units * unit;
    return make_model(config, GeneratorRef())->parameter_count();
  };
  if (count(1) > parameters)
    fail("model", fmt::format("{} parameters are too few for a {}: {} at the least", parameters,
                              to_string(config.kind), count(1)));
  std::int64_t low = 1, high = 2;
  while (count(high) < parameters) low = high, high *= 2;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (count(middle) < parameters ? low : high) = middle;
  }
  const bool lower = parameters - count(low) <= count(high) - parameters;
  config.hidden = (lower ? low : high) * unit;
  return config;
}

}  // namespace unroll
