#include <fmt/format.h>
#include <unroll/layers/mamba.h>
#include <unroll/layers/minimal.h>
#include <unroll/layers/rwkv.h>
#include <unroll/train/block_model.h>

#include <cmath>
#include <vector>

namespace unroll::detail {
namespace {

MinimalBlockOptions minimal_options(const ModelConfig& c) {
  return {
      .size = c.hidden, .lstm = c.kind == ModelKind::minlstm, .bias = c.bias, .dropout = c.dropout};
}

RWKVOptions rwkv_options(const ModelConfig& c, int layer) {
  return {
      .size = c.hidden, .heads = c.heads, .layer = layer, .layers = c.layers, .dropout = c.dropout};
}

std::unique_ptr<ParallelCell> make_block(const ModelConfig& c, int layer, GeneratorRef& g) {
  if (c.kind == ModelKind::mamba)
    return std::make_unique<MambaBlock>(MambaOptions{.d_model = c.hidden, .dropout = c.dropout}, g);
  if (c.kind == ModelKind::rwkv) return std::make_unique<RWKVBlock>(rwkv_options(c, layer), g);
  return std::make_unique<MinimalBlock>(minimal_options(c), g);
}

class BlockModel : public SequenceModel {
 public:
  BlockModel(const ModelConfig& c, GeneratorRef g)
      : input_(c, c.hidden, g),
        head_({.in_features = c.hidden, .out_features = outputs_of(c), .bias = c.bias}, g) {
    if (c.tied) {
      if (!input_.table) fail("model", "a tied head needs tokens");
      head_.weight = input_.table->weight;
    }
    const bool rwkv = c.kind == ModelKind::rwkv;
    add("embed", input_.module());
    if (rwkv) {
      first_norm_ = std::make_unique<LayerNorm>(c.hidden);
      last_norm_ = std::make_unique<LayerNorm>(c.hidden);
      add("ln0", *first_norm_);
    } else {
      last_rms_norm_ = std::make_unique<RMSNorm>(c.hidden);
    }
    for (int layer = 0; layer < c.layers; ++layer) {
      blocks_.push_back(make_block(c, layer, g));
      add(fmt::format("{}.{}", rwkv ? "blocks" : "layers", layer), *blocks_.back());
    }
    if (rwkv) {
      add("ln_out", *last_norm_);
    } else {
      add("norm_f", *last_rms_norm_);
    }
    add("head", head_);
    initialize(c, g);
  }
  Tensor embed(const Tensor& x) override { return input_(x); }
  Output run(const Tensor& embedded, const State& state) override {
    return through(embedded, state, [](const ParallelCell& block, const Tensor& x, State own) {
      return block.run(x, {.state = std::move(own)});
    });
  }
  bool constant_state() const override { return true; }
  ModelParts parts() override {
    ModelParts parts{[this](const Tensor& x) { return first_norm_ ? (*first_norm_)(x) : x; },
                     {},
                     [this](const Tensor& h) { return head_(last_norm(h)); }};
    for (const auto& block : blocks_)
      parts.layers.push_back(
          {.cell = block.get(),
           .step = [&block](const Tensor& x, const State& s) { return (*block)(x, s); }});
    return parts;
  }
  StepForm step_form(const StreamOptions& options) override {
    refuse_window(options, describe());
    return {.step = [this](const Tensor& x, const Tensor&,
                           const State& state) { return step(embed(x), state); },
            .initial_state =
                [this](std::int64_t batch) {
                  State state;
                  for (const auto& block : blocks_)
                    for (Tensor& one : block->initial_state(batch, head_.weight.dtype()))
                      state.push_back(std::move(one));
                  return state;
                }};
  }
  std::string describe() const override { return "BlockModel"; }

 private:
  Output step(const Tensor& embedded, const State& state) {
    return through(
        embedded, state,
        [](const ParallelCell& block, const Tensor& x, const State& own) { return block(x, own); });
  }

  // All blocks, each by run(block, x, its own part of the state), and what is around them.
  template <class Run>
  Output through(const Tensor& embedded, const State& state, const Run& run) {
    Output result{first_norm_ ? (*first_norm_)(embedded) : embedded, {}};
    const auto each = static_cast<std::ptrdiff_t>(state.size() / blocks_.size());
    if (static_cast<std::size_t>(each) * blocks_.size() != state.size())
      fail("model",
           fmt::format("a state of {} tensors for {} layers", state.size(), blocks_.size()));
    auto own = state.begin();
    for (const auto& block : blocks_) {
      Output next = run(*block, result.output, State(own, own + each));
      own += each;
      result.output = std::move(next.output);
      for (Tensor& one : next.state) result.state.push_back(std::move(one));
    }
    result.output = head_(last_norm(result.output));
    return result;
  }

  Tensor last_norm(const Tensor& h) { return last_norm_ ? (*last_norm_)(h) : (*last_rms_norm_)(h); }

  // Tables normal(0, 0.02), as Mamba's authors have them, and what enters the residual stream
  // scaled by 1 / sqrt(of how much does): GPT-2's rule, which Mamba's follows. RWKV's blocks do so
  // themselves.
  void initialize(const ModelConfig& c, GeneratorRef& g) {
    if (input_.table)
      input_.table->weight.set_value(g->normal(input_.table->weight.shape(), 0, 0.02));
    const double parts = c.kind == ModelKind::mamba ? 1 : 2;
    const double scale = 1 / std::sqrt(parts * c.layers);
    for (auto& [name, parameter] : named_parameters())
      if (name.ends_with("out_proj.weight") || name.ends_with("linear2.weight"))
        for (float& value : parameter.mutable_value().mutable_data<float>())
          value = static_cast<float>(value * scale);
  }

  Input input_;
  std::unique_ptr<LayerNorm> first_norm_, last_norm_;  // RWKV
  std::unique_ptr<RMSNorm> last_rms_norm_;             // the others
  std::vector<std::unique_ptr<ParallelCell>> blocks_;
  Linear head_;
};

}  // namespace

std::unique_ptr<SequenceModel> make_block_model(const ModelConfig& config, GeneratorRef generator) {
  return std::make_unique<BlockModel>(config, generator);
}

double block_parameter_count(const ModelConfig& c) {
  const auto h = static_cast<double>(c.hidden), outputs = static_cast<double>(outputs_of(c));
  const double bias = c.bias ? 1 : 0;
  const double input = c.vocabulary > 0 ? static_cast<double>(c.vocabulary) * h
                                        : (static_cast<double>(c.features) + 1) * h;
  const double head = (c.tied ? 0 : outputs * h) + bias * outputs;
  double block = 0, norms = h;  // the last
  if (c.kind == ModelKind::mamba) {
    const MambaOptions o;
    const double inner = static_cast<double>(o.expand) * h, rank = std::ceil(h / 16);
    const auto states = static_cast<double>(o.d_state), taps = static_cast<double>(o.d_conv);
    // Norm, in_proj, conv1d, x_proj, dt_proj, A_log and D, out_proj.
    block = h + 2 * inner * h + inner * (taps + 1) + inner * (rank + 2 * states) +
            inner * (rank + 1) + inner * (states + 1) + inner * h;
  } else if (c.kind == ModelKind::rwkv) {
    const double rank = std::min(32.0, std::max(8.0, std::floor(h / 16)));
    const double inner = std::floor(h * 3.5);
    // Time mix: six mixes, decay, bonus and ln_x's two; the LoRAs; five squares. Channel mix: two
    // mixes, a square, there and back. Two norms.
    const double time = 10 * h + 10 * h * rank + 4 * h * rank + 5 * h * h;
    block = time + 2 * h + h * h + 2 * h * inner + 4 * h;
    norms = 4 * h;
  } else {
    const MinimalBlockOptions o;
    const double inner = static_cast<double>(o.expand) * h, taps = static_cast<double>(o.taps);
    const double gates = c.kind == ModelKind::minlstm ? 3 : 2;
    // Two norms, convolution, gates, out_proj, and the feed-forward part.
    block = 2 * h + (taps + 1) * h + gates * inner * (h + bias) + (inner + bias) * h + 8 * h * h +
            bias * 5 * h;
  }
  return input + static_cast<double>(c.layers) * block + norms + head;
}

}  // namespace unroll::detail
