#include <fmt/format.h>
#include <unroll/layers/positions.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/embedding.h>
#include <unroll/ops/layout.h>
#include <unroll/train/block_model.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace unroll {
namespace {

using detail::Input, detail::outputs_of;

constexpr ModelKind kinds[] = {ModelKind::rnn,    ModelKind::lstm,       ModelKind::gru,
                               ModelKind::mingru, ModelKind::minlstm,    ModelKind::mamba,
                               ModelKind::rwkv,   ModelKind::transformer};

// embed -> rnn -> head
class RecurrentModel : public SequenceModel {
 public:
  RecurrentModel(const ModelConfig& c, GeneratorRef g)
      : input_(c, c.embedding, g),
        rnn_(make_rnn(c, g)),
        head_(c.hidden, outputs_of(c), g),
        layers_(c.layers) {
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
  ModelParts parts() override {
    ModelParts parts{
        [](const Tensor& x) { return x; }, {}, [this](const Tensor& h) { return head_(h); }};
    for (int i = 0; i < layers_; ++i)
      parts.layers.push_back(
          {.cell = &rnn_->cell(i),
           .step = [this, i](const Tensor& x, const State& s) { return rnn_->step(i, x, s); }});
    return parts;
  }
  StepForm step_form(const StreamOptions& options) override {
    detail::refuse_window(options, describe());
    StepForm form = rnn_->step_form();
    form.step = [this, inner = std::move(form.step)](const Tensor& x, const Tensor& position,
                                                     const State& state) {
      Output result = inner(embed(x), position, state);
      result.output = head_(result.output);
      return result;
    };
    return form;
  }
  std::string describe() const override { return "RecurrentModel"; }

 private:
  template <class Layer, class Options>
  static std::unique_ptr<RecurrentLayer> make_layer(const ModelConfig& c, GeneratorRef& g) {
    Options options{.input_size = c.embedding,
                    .hidden_size = c.hidden,
                    .num_layers = c.layers,
                    .bias = c.bias,
                    .dropout = c.dropout,
                    .regularization = c.regularization};
    if constexpr (requires { options.layer_norm; }) options.layer_norm = c.layer_norm;
    return std::make_unique<Layer>(options, g);
  }
  static std::unique_ptr<RecurrentLayer> make_rnn(const ModelConfig& c, GeneratorRef& g) {
    switch (c.kind) {
      case ModelKind::rnn:
        return make_layer<RNN, RNNOptions>(c, g);
      case ModelKind::gru:
        return make_layer<GRU, GRUOptions>(c, g);
      default:
        return make_layer<LSTM, LSTMOptions>(c, g);
    }
  }

  Input input_;
  std::unique_ptr<RecurrentLayer> rnn_;
  Linear head_;
  int layers_;
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
    const std::int64_t past = state.empty() ? 0 : state[0].size(0);
    Output result = encoder_(placed(embedded, past),
                             {.causal = true, .window = config_.window, .cache = state});
    result.output = head_(result.output);
    return result;
  }
  bool constant_state() const override { return false; }
  ModelParts parts() override {
    ModelParts parts{[this](const Tensor& x) { return placed(x, 0); },
                     {},
                     [this](const Tensor& h) { return head_((*encoder_.norm)(h)); }};
    for (int i = 0; i < config_.layers; ++i) {
      TransformerEncoderLayer& layer = encoder_.layer(i);
      parts.layers.push_back({.run =
                                  [&layer, window = config_.window](const Tensor& x) {
                                    return layer(x, {.causal = true, .window = window}).output;
                                  },
                              .attention =
                                  [&layer, window = config_.window](const Tensor& x) {
                                    const AttentionCall call{
                                        .causal = true, .window = window, .need_weights = true};
                                    return layer.self_attn(layer.norm1(x), call).weights;
                                  }});
    }
    return parts;
  }
  StepForm step_form(const StreamOptions& options) override {
    const bool learned = config_.positions == Positions::learned;
    std::int64_t window = options.window > 0 ? options.window : config_.window;
    if (window > 0 && config_.window > 0) window = std::min(window, config_.window);
    if (window == 0 && learned) window = config_.context;
    if (window < 1 || options.window < 0 || options.sinks < 0)
      fail("model",
           fmt::format("a stream of a {} with a window of {} and {} sinks", describe(),
                       options.window, options.sinks),
           "Bound what it keeps: {.window = 256}, for instance");
    const std::int64_t sinks = options.sinks, rows = window + sinks;
    const DType dtype = head_.weight.dtype();
    return {.step = [=, this](const Tensor& x, const Tensor& position,
                              const State& state) { return step(x, position, state, sinks, rows); },
            .initial_state =
                [=, this](std::int64_t batch) {
                  const Tensor cache = Tensor::zeros({batch, rows, 2 * config_.hidden}, dtype);
                  return State(static_cast<std::size_t>(config_.layers), cache);
                },
            .longest = learned ? config_.context : 0};
  }
  std::string describe() const override { return "TransformerModel"; }

 private:
  // Vectors with what tells their positions, `past` and those behind it.
  Tensor placed(const Tensor& embedded, std::int64_t past) {
    if (embedded.rank() != 3)  // positions would be broadcast along what is no batch
      fail_shape(
          "model",
          fmt::format("a {}'s embedded input is {}, expected [T, B, {}]", describe(),
                      to_string(embedded.shape()), config_.hidden),
          embedded.rank() == 2 ? "Give a single sequence a batch axis with unsqueeze()" : "");
    const std::int64_t steps = embedded.size(0);
    Tensor x = embedded;
    if (positions_) x = x + unsqueeze((*positions_)(steps, past), 1);
    if (config_.positions == Positions::sinusoidal)
      x = x + sinusoidal_positions(steps, config_.hidden, past, x.dtype())
                  .viewed({steps, 1, config_.hidden});
    return x;
  }

  Output step(const Tensor& tokens, const Tensor& position, const State& state, std::int64_t sinks,
              std::int64_t rows) {
    StreamPlace place{.position = position, .sinks = sinks};
    const std::int64_t size = config_.hidden / config_.heads;
    Tensor x = input_(tokens);
    if (positions_) x = x + embedding(positions_->weight, position);
    if (config_.positions == Positions::sinusoidal)
      x = x + sinusoidal_positions_at(position, config_.hidden, x.dtype());
    if (config_.positions == Positions::rotary) {
      place.angles = sinusoidal_positions_at(position, size, x.dtype());
      if (sinks > 0)
        place.sink_angles = sinusoidal_positions_at(position, size, x.dtype(), rows - 1);
    }
    Output result = encoder_(x, {.causal = true, .cache = state, .place = place});
    result.output = head_(result.output);
    return result;
  }

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

ModelParts SequenceModel::parts() {
  fail("model", "a " + describe() + " does not say what its parts are",
       "Override parts() to look inside it");
}

StepForm SequenceModel::step_form(const StreamOptions&) {
  fail("model", fmt::format("a {} has no form for single steps", describe()),
       "Override step_form()");
}

void detail::refuse_window(const StreamOptions& options, const std::string& model) {
  if (options.window != 0 || options.sinks != 0)
    fail("model",
         fmt::format("a window of {} and {} sinks for a {}", options.window, options.sinks, model),
         "They bound what attention keeps; this model's state has one size");
}

const char* to_string(ModelKind kind) {
  switch (kind) {
    case ModelKind::rnn:
      return "rnn";
    case ModelKind::lstm:
      return "lstm";
    case ModelKind::gru:
      return "gru";
    case ModelKind::mingru:
      return "mingru";
    case ModelKind::minlstm:
      return "minlstm";
    case ModelKind::mamba:
      return "mamba";
    case ModelKind::rwkv:
      return "rwkv";
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

bool has_blocks(ModelKind kind) {
  return kind != ModelKind::rnn && kind != ModelKind::lstm && kind != ModelKind::gru;
}

double parameter_count(const ModelConfig& c) {
  const bool transformer = c.kind == ModelKind::transformer;
  if (has_blocks(c.kind) && !transformer) return detail::block_parameter_count(c);
  const auto h = static_cast<double>(c.hidden), layers = static_cast<double>(c.layers),
             outputs = static_cast<double>(outputs_of(c)), bias = c.bias ? 1.0 : 0.0;
  const double width = transformer ? h : static_cast<double>(c.embedding);
  const double input = c.vocabulary > 0 ? static_cast<double>(c.vocabulary) * width
                                        : (static_cast<double>(c.features) + 1) * width;
  const double head = c.tied ? 0 : outputs * h;
  if (transformer) {
    // Attention 4 h^2, feed-forward 8 h^2, two norms; behind the layers a norm.
    const double layer = 12 * h * h + 2 * h + bias * (4 * h + 5 * h + 2 * h);
    const double positions =
        c.positions == Positions::learned ? static_cast<double>(c.context) * h : 0;
    return input + positions + layers * layer + (1 + bias) * h + head + bias * outputs;
  }
  const double gates = c.kind == ModelKind::rnn ? 1 : c.kind == ModelKind::lstm ? 4 : 3;
  const double cells = gates * h * (width + h + 2 * bias + (layers - 1) * (2 * h + 2 * bias));
  const double norms = c.layer_norm ? layers * 10 * h : 0;
  return input + cells + norms + head + outputs;
}

std::unique_ptr<SequenceModel> make_model(const ModelConfig& c, GeneratorRef generator) {
  if ((c.vocabulary > 0) == (c.features > 0))
    fail("model", fmt::format("either vocabulary or features must be positive, got {} and {}",
                              c.vocabulary, c.features));
  if (outputs_of(c) < 1) fail("model", "outputs must be positive");
  const bool transformer = c.kind == ModelKind::transformer;
  const bool heads = transformer || c.kind == ModelKind::rwkv;
  for (const auto& [name, size] : {std::pair<const char*, std::int64_t>{"hidden", c.hidden},
                                   {"layers", c.layers},
                                   {"heads", heads ? c.heads : 1},
                                   {"context", transformer ? c.context : 1},
                                   {"embedding", has_blocks(c.kind) ? 1 : c.embedding}})
    if (size < 1) fail("model", fmt::format("{} must be 1 or more, got {}", name, size));
  if (heads && c.hidden % c.heads != 0)
    fail("model", fmt::format("{} heads do not divide a hidden size of {}", c.heads, c.hidden));
  if (transformer && c.positions == Positions::rotary && c.hidden / c.heads % 2 != 0)
    fail("model",
         fmt::format("rotary positions need an even number of units a head, got {} in {} heads",
                     c.hidden, c.heads));
  if (c.layer_norm && c.kind != ModelKind::lstm)
    fail("model", fmt::format("layer_norm is an LSTM's, not a {}'s", to_string(c.kind)));
  if (c.regularization.any() && c.kind != ModelKind::rnn && c.kind != ModelKind::lstm &&
      c.kind != ModelKind::gru)
    fail("model", fmt::format("a {} takes dropout alone of the regularisers", to_string(c.kind)),
         "The others are for rnn, lstm and gru");
  if (c.window < 0 || (c.window > 0 && !transformer))
    fail("model", fmt::format("a window of {} steps for a {}", c.window, to_string(c.kind)),
         "A Transformer's is 0, for none, or positive");
  constexpr double most = 1e12;
  if (!(parameter_count(c) <= most))
    fail("model",
         fmt::format("{:.3g} parameters are more than any machine holds here", parameter_count(c)));
  if (transformer) return std::make_unique<TransformerModel>(c, generator);
  if (has_blocks(c.kind)) return detail::make_block_model(c, generator);
  return std::make_unique<RecurrentModel>(c, generator);
}

ModelConfig sized(ModelConfig config, std::int64_t parameters) {
  if (config.heads < 1) fail("model", fmt::format("{} heads", config.heads));
  const std::int64_t unit = config.kind == ModelKind::transformer ? 2 * config.heads
                            : config.kind == ModelKind::rwkv      ? config.heads
                                                                  : 1;
  const auto count = [&](std::int64_t units) {
    config.hidden = units * unit;
    return parameter_count(config);
  };
  const auto wanted = static_cast<double>(parameters);
  if (count(1) > wanted)
    fail("model", fmt::format("{} parameters are too few for a {}: {:.0f} at the least", parameters,
                              to_string(config.kind), count(1)));
  std::int64_t low = 1, high = 2;
  while (count(high) < wanted) low = high, high *= 2;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (count(middle) < wanted ? low : high) = middle;
  }
  const bool lower = wanted - count(low) <= count(high) - wanted;
  config.hidden = (lower ? low : high) * unit;
  return config;
}

}  // namespace unroll
