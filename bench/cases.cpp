#include "cases.h"

#include <fmt/format.h>
#include <unroll/graph/precision.h>
#include <unroll/unroll.h>

#include <memory>
#include <type_traits>

namespace unroll::bench {
namespace {

using Step = std::function<void()>;

double product(double m, double k, double n) { return 2 * m * k * n; }

/// A recurrent layer's training step; `inner`: its input depends on parameters.
double recurrent_flops(double rows, double input, double size, double gates, bool inner) {
  const double x = product(rows, input, gates * size), h = product(rows, size, gates * size);
  return 2 * (x + h) + h + (inner ? x : 0);
}
double linear_flops(double rows, double in, double out) { return 3 * product(rows, in, out); }
/// Two products forward, four back, of which causality leaves half.
double attention_flops(double batch, double steps, double width) {
  return 6 * batch * product(steps, width, steps) / 2;
}

double gates_of(ModelKind kind) {
  return kind == ModelKind::lstm ? 4 : kind == ModelKind::gru ? 3 : 1;
}
const char* name_of(ModelKind kind) {
  return kind == ModelKind::lstm ? "LSTM" : kind == ModelKind::gru ? "GRU" : "RNN";
}

std::shared_ptr<RecurrentLayer> make_layer(ModelKind kind, std::int64_t input, std::int64_t size,
                                           int layers, bool bidirectional, Generator& g) {
  if (kind == ModelKind::lstm)
    return std::make_shared<LSTM>(LSTMOptions{.input_size = input,
                                              .hidden_size = size,
                                              .num_layers = layers,
                                              .bidirectional = bidirectional},
                                  g);
  if (kind == ModelKind::gru)
    return std::make_shared<GRU>(GRUOptions{.input_size = input,
                                            .hidden_size = size,
                                            .num_layers = layers,
                                            .bidirectional = bidirectional},
                                 g);
  return std::make_shared<RNN>(RNNOptions{.input_size = input,
                                          .hidden_size = size,
                                          .num_layers = layers,
                                          .bidirectional = bidirectional},
                               g);
}

// What training does: gradients cleared, forward, loss, backward, Adam.
template <class Model, class Loss>
Step training(std::shared_ptr<Model> model, Loss loss, DType precision) {
  auto adam = std::make_shared<Adam>(model->parameters());
  return [model, adam, loss, precision] {
    adam->zero_grad();
    Tape tape{{.precision = precision}};
    tape.backward(loss(*model));
    adam->step();
  };
}

template <class Model>
Step sequence_training(std::shared_ptr<Model> model, const Shape& input, Generator& g,
                       DType precision = DType::f32) {
  return training(
      model, [x = g.normal(input, 0, 1)](Model& m) { return mean(square(m(x).output)); },
      precision);
}

Tensor random_tokens(const Shape& shape, std::int64_t vocabulary, Generator& g) {
  Tensor tokens = Tensor::empty(shape, DType::i64);
  for (std::int64_t& token : tokens.mutable_data<std::int64_t>()) token = g.below(vocabulary);
  return tokens;
}

constexpr std::int64_t vocabulary = 65;

template <class Model>
Step token_training(std::shared_ptr<Model> model, std::int64_t batch, std::int64_t steps,
                    Generator& g, DType precision = DType::f32) {
  const Shape shape{steps, batch};
  return training(
      model,
      [x = random_tokens(shape, vocabulary, g), y = random_tokens(shape, vocabulary, g)](Model& m) {
        return cross_entropy(m(x), y);
      },
      precision);
}

Case layer_case(const std::string& name, ModelKind kind, std::int64_t input, std::int64_t size,
                int layers, bool bidirectional, std::int64_t steps, std::int64_t batch,
                DType precision = DType::f32) {
  const double directions = bidirectional ? 2 : 1, rows = static_cast<double>(steps * batch);
  double flops = 0;
  for (int layer = 0; layer < layers; ++layer)
    flops += directions *
             recurrent_flops(rows, layer == 0 ? input : directions * static_cast<double>(size),
                             size, gates_of(kind), layer > 0);
  return {.name = fmt::format("{} {}", name_of(kind), name),
          .flops = flops,
          .precision = precision,
          .make = [=] {
            Generator g(1);
            return sequence_training(make_layer(kind, input, size, layers, bidirectional, g),
                                     {steps, batch, input}, g, precision);
          }};
}

// Cells as a user writes them.
struct UserRNN : Module {
  Linear x, h;
  UserRNN(std::int64_t input, std::int64_t size, Generator& g)
      : x(input, size, g), h({.in_features = size, .out_features = size, .bias = false}, g) {
    add("x", x);
    add("h", h);
  }
  Output operator()(const Tensor& xs) const {
    const auto cell = [this](const Tensor& in, const State& state) -> Output {
      const Tensor next = tanh(x(in) + h(state[0]));
      return {next, {next}};
    };
    return scan(cell, xs, {Tensor::zeros({xs.size(1), h.weight.shape()[0]})});
  }
};

struct UserLSTM : Module {
  Linear x, h;
  UserLSTM(std::int64_t input, std::int64_t size, Generator& g)
      : x(input, 4 * size, g), h(size, 4 * size, g) {
    add("x", x);
    add("h", h);
  }
  Output operator()(const Tensor& xs) const {
    const auto cell = [this](const Tensor& in, const State& state) -> Output {
      const auto [i, f, g, o] = chunk<4>(x(in) + h(state[0]));
      const auto [next, c] = pointwise(
          [](auto i, auto f, auto g, auto o, auto c0) {
            const auto c = sigmoid(f) * c0 + sigmoid(i) * tanh(g);
            return std::tuple{sigmoid(o) * tanh(c), c};
          },
          i, f, g, o, state[1]);
      return {next, {next, c}};
    };
    const Tensor start = Tensor::zeros({xs.size(1), h.weight.shape()[1]});
    return scan(cell, xs, {start, start});
  }
};

template <class Model>
Case user_case(const std::string& name, double gates, std::int64_t input, std::int64_t size,
               std::int64_t steps, std::int64_t batch) {
  return {
      .name = name,
      .flops = recurrent_flops(static_cast<double>(steps * batch), input, size, gates, false),
      .make = [=] {
        Generator g(1);
        return sequence_training(std::make_shared<Model>(input, size, g), {steps, batch, input}, g);
      }};
}

struct CharModel : Module {
  Embedding embed;
  std::shared_ptr<RecurrentLayer> layer;
  Linear head;
  CharModel(ModelKind kind, std::int64_t size, int layers, Generator& g)
      : embed(vocabulary, size, g),
        layer(make_layer(kind, size, size, layers, false, g)),
        head(size, vocabulary, g) {
    add("embed", embed);
    add("layer", *layer);
    add("head", head);
  }
  Tensor operator()(const Tensor& tokens) { return head((*layer)(embed(tokens)).output); }
};

Case char_case(ModelKind kind) {
  constexpr int size = 256, layers = 2, batch = 12, steps = 64;
  return {.name = fmt::format("char {} 256x2 B12 T64", name_of(kind)),
          .flops = layers * recurrent_flops(batch * steps, size, size, gates_of(kind), true) +
                   linear_flops(batch * steps, size, vocabulary),
          .make = [=] {
            Generator g(1);
            return token_training(std::make_shared<CharModel>(kind, size, layers, g), batch, steps,
                                  g);
          }};
}

struct GPT : Module {
  Embedding embed;
  Parameter positions;
  TransformerEncoder blocks;  // its norm is the last
  Linear head;
  GPT(std::int64_t width, int layers, std::int64_t heads, std::int64_t steps, Generator& g)
      : embed(vocabulary, width, g),
        positions(Tensor::zeros({steps, 1, width})),
        blocks({.d_model = width,
                .nhead = heads,
                .num_layers = layers,
                .activation = FeedForward::gelu,
                .norm_first = true},
               g),
        head({.in_features = width, .out_features = vocabulary, .bias = false}, g) {
    add("embed", embed);
    add("positions", positions);
    add("blocks", blocks);
    add("head", head);
  }
  Tensor operator()(const Tensor& tokens) {
    return head(blocks(embed(tokens) + positions, {.causal = true}).output);
  }
};

Case gpt_case(const std::string& name, std::int64_t width, std::int64_t batch, std::int64_t steps,
              DType precision = DType::f32) {
  constexpr int layers = 4, heads = 4;
  const double rows = static_cast<double>(batch * steps), d = static_cast<double>(width);
  return {.name = name,
          .flops = layers * (linear_flops(rows, d, 12 * d) +
                             attention_flops(static_cast<double>(batch), steps, d)) +
                   linear_flops(rows, d, vocabulary),
          .precision = precision,
          .make = [=] {
            Generator g(1);
            return token_training(std::make_shared<GPT>(width, layers, heads, steps, g), batch,
                                  steps, g, precision);
          }};
}

Case attention_case(std::int64_t steps) {
  const std::int64_t batch = std::max<std::int64_t>(1, 4096 / steps);
  return {.name = fmt::format("causal attention fwd+bwd B{} H4 T{} D64", batch, steps),
          .flops = attention_flops(static_cast<double>(batch), steps, 4 * 64),
          .make = [=]() -> Step {
            Generator g(1);
            const Shape shape{batch, 4, steps, 64};
            const Tensor q = g.normal(shape, 0, 1), k = g.normal(shape, 0, 1),
                         v = g.normal(shape, 0, 1);
            return [=] {
              Tape tape;
              const Tensor in[] = {tape.watch(q), tape.watch(k), tape.watch(v)};
              const Tensor y = attention(in[0], in[1], in[2], {.causal = true}).output;
              tape.gradient(sum(y), {in[0], in[1], in[2]});
            };
          }};
}

// A model and one step of its stream.
template <class Model>
Case stream_case(const std::string& name, std::function<std::shared_ptr<Model>(Generator&)> make,
                 std::function<Tensor(Generator&)> input, const StreamOptions& options = {}) {
  const auto stream_of = [options](Model& model) {
    model.eval();
    if constexpr (std::is_same_v<Model, SequenceModel>)
      return Stream(model, options);
    else
      return Stream(model);
  };
  return {.name = name,
          .unit = Unit::us,
          .make = [=]() -> Step {
            Generator g(1);
            const auto model = make(g);
            const auto stream = std::make_shared<Stream>(stream_of(*model));
            return [model, stream, x = input(g)] { stream->step(x); };
          },
          .state_bytes =
              [=] {
                Generator g(1);
                return stream_of(*make(g)).state_bytes();
              }};
}

// H inputs, H units.
Case layer_stream_case(ModelKind kind, std::int64_t size) {
  return stream_case<RecurrentLayer>(
      fmt::format("stream {} {} B1", name_of(kind), size),
      [=](Generator& g) { return make_layer(kind, size, size, 1, false, g); },
      [=](Generator& g) {
        return g.normal({1, size}, 0, 1);
      });
}

Case block_stream_case(const std::string& name, std::int64_t size,
                       std::function<std::shared_ptr<RecurrentCell>(Generator&)> make) {
  return stream_case<RecurrentCell>(fmt::format("stream {} {} B1", name, size), std::move(make),
                                    [=](Generator& g) {
                                      return g.normal({1, size}, 0, 1);
                                    });
}

Case model_stream_case(const std::string& name, const ModelConfig& config,
                       const StreamOptions& options = {}) {
  return stream_case<SequenceModel>(
      name, [=](Generator& g) { return std::shared_ptr<SequenceModel>(make_model(config, g)); },
      [](Generator& g) { return random_tokens({1}, vocabulary, g); }, options);
}

// A long sequence of which the end alone is read, with every so many states kept.
Case long_case(std::int64_t checkpoint_every) {
  constexpr std::int64_t steps = 4096, batch = 8, input = 64, size = 128;
  return {.name = fmt::format(
              "LSTM 64-128 B8 T4096, last state{}",
              checkpoint_every > 0 ? fmt::format(", checkpoint_every {}", checkpoint_every) : ""),
          .flops = recurrent_flops(steps * batch, input, size, 4, false),
          .make = [=] {
            Generator g(1);
            return training(
                std::make_shared<LSTM>(LSTMOptions{.input_size = input, .hidden_size = size}, g),
                [=, x = g.normal({steps, batch, input}, 0, 1)](LSTM& m) {
                  return mean(square(m(x, {.checkpoint_every = checkpoint_every}).state[0]));
                },
                DType::f32);
          }};
}

// The sizes that `unroll train --recipe nanogpt-cpu` gives them.
ModelConfig block_config(ModelKind kind) {
  const std::int64_t size = kind == ModelKind::mamba ? 160 : 112;
  return {.kind = kind, .vocabulary = vocabulary, .hidden = size, .layers = 4};
}

Case block_case(ModelKind kind) {
  const ModelConfig config = block_config(kind);
  double flops = 0;
  for (const auto& [name, parameter] : make_model(config)->named_parameters())
    if (parameter.shape().rank() == 2 && name.ends_with("weight") && !name.starts_with("embed"))
      flops += linear_flops(12 * 64, static_cast<double>(parameter.shape()[1]),
                            static_cast<double>(parameter.shape()[0]));
  return {.name = fmt::format("{} 4L{} B12 T64", to_string(kind), config.hidden),
          .flops = flops,
          .make = [=] {
            Generator g(1);
            const std::shared_ptr<SequenceModel> model = make_model(config, g);
            const Shape shape{64, 12};
            return training(
                model,
                [x = random_tokens(shape, vocabulary, g), y = random_tokens(shape, vocabulary, g)](
                    SequenceModel& m) { return cross_entropy(m(x).output, y); },
                DType::f32);
          }};
}

Case overhead_case() {
  return {.name = "autograd overhead ns/op (scalar mul chain fwd+bwd)",
          .unit = Unit::ns,
          .make = []() -> Step {
            return [x = Tensor::zeros({1})] {
              Tape tape;
              const Tensor start = tape.watch(x);
              Tensor y = start;
              for (int i = 0; i < 1000; ++i) y = y * 1.0001;
              tape.gradient(y, {start});
            };
          }};
}

Case replay_case() {
  return {.name = "autograd overhead ns/op (scalar mul chain fwd+bwd), replayed",
          .unit = Unit::ns,
          .make = []() -> Step {
            const Parameter x(Tensor::zeros({1}));
            const Tensor scale = Tensor::full({1}, 1);
            const auto chain = [x](std::span<const Tensor> in) -> std::vector<Tensor> {
              Tensor y = x * in[0];
              for (int i = 0; i < 1000; ++i) y = y * 1.0001;
              return {y};
            };
            auto program = std::make_shared<Program>(trace_gradient(chain, {&scale, 1}));
            return [program, scale] { (*program)({scale}); };
          }};
}

}  // namespace

std::vector<Case> cases() {
  constexpr ModelKind kinds[] = {ModelKind::rnn, ModelKind::lstm, ModelKind::gru};
  std::vector<Case> all;
  for (const ModelKind kind : kinds) {
    all.push_back(layer_case("seed shape 64-128x2 bidir B32 T50", kind, 64, 128, 2, true, 50, 32));
    all.push_back(layer_case("128 B16 T100", kind, 128, 128, 1, false, 100, 16));
    all.push_back(layer_case("512 B32 T64", kind, 512, 512, 1, false, 64, 32));
  }
  all.push_back(user_case<UserRNN>("custom RNN cell 64-128 B32 T50", 1, 64, 128, 50, 32));
  all.push_back(user_case<UserLSTM>("custom LSTM cell 64-128 B32 T50", 4, 64, 128, 50, 32));
  all.push_back(user_case<UserLSTM>("custom LSTM cell 32-32 B8 T100", 4, 32, 32, 100, 8));
  for (const ModelKind kind : {ModelKind::lstm, ModelKind::gru, ModelKind::rnn})
    all.push_back(char_case(kind));
  all.push_back(gpt_case("nanoGPT-cpu 4L4H128 B12 T64", 128, 12, 64));
  all.push_back(gpt_case("GPT 4L4H256 B8 T256", 256, 8, 256));
  for (const ModelKind kind :
       {ModelKind::mingru, ModelKind::minlstm, ModelKind::mamba, ModelKind::rwkv}) {
    const ModelConfig config = block_config(kind);
    all.push_back(block_case(kind));
    all.push_back(model_stream_case(
        fmt::format("stream {} 4L{} B1", to_string(kind), config.hidden), config));
  }
  for (const std::int64_t steps : {512, 2048, 4096}) all.push_back(attention_case(steps));
  for (const std::int64_t every : {0, 32}) all.push_back(long_case(every));
  for (const ModelKind kind : kinds)
    for (const std::int64_t size : {64, 256}) all.push_back(layer_stream_case(kind, size));
  for (const std::int64_t size : {64, 256}) {
    all.push_back(block_stream_case("Mamba block", size, [=](Generator& g) {
      return std::make_shared<MambaBlock>(MambaOptions{.d_model = size}, g);
    }));
    all.push_back(block_stream_case("minGRU block", size, [=](Generator& g) {
      return std::make_shared<MinimalBlock>(MinimalBlockOptions{.size = size}, g);
    }));
    all.push_back(model_stream_case(
        fmt::format("stream Transformer 1L{} window 256 B1", size),
        {.kind = ModelKind::transformer, .vocabulary = vocabulary, .hidden = size, .layers = 1},
        {.window = 256}));
  }
  all.push_back(overhead_case());
  all.push_back(replay_case());
  if (bf16_support().complete()) {
    all.push_back(
        layer_case("512 B32 T64 bf16", ModelKind::lstm, 512, 512, 1, false, 64, 32, DType::bf16));
    all.push_back(gpt_case("nanoGPT-cpu 4L4H128 B12 T64 bf16", 128, 12, 64, DType::bf16));
  }
  return all;
}

}  // namespace unroll::bench
