#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/layers/embedding.h>
#include <unroll/layers/positions.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>
#include <unroll/train/decoding_check.h>
#include <unroll/train/seq2seq.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace unroll {
namespace {

using detail::any_size, detail::check_data_to_compute, detail::check_source, detail::check_tokens,
    detail::DecodingCheck;

// Elements `indices` of an axis into a tensor that has room for them, of any dtype.
void take_into(std::byte* to, const Tensor& x, int axis, std::span<const std::int64_t> indices) {
  std::int64_t outer = 1;
  for (int i = 0; i < axis; ++i) outer *= x.size(i);
  const std::int64_t size = x.size(axis);
  const auto bytes = static_cast<std::size_t>(x.numel() / (outer * size) * size_of(x.dtype()));
  for (std::int64_t o = 0; o < outer; ++o)
    for (const std::int64_t i : indices) {
      std::memcpy(to, x.bytes() + static_cast<std::size_t>(o * size + i) * bytes, bytes);
      to += bytes;
    }
}

Tensor taken(const Tensor& x, int axis, std::span<const std::int64_t> indices) {
  Tensor result = Tensor::empty(x.shape().with(axis, std::ssize(indices)), x.dtype());
  take_into(result.bytes(), x, axis, indices);
  return result;
}

void check_kind(ModelKind kind) {
  switch (kind) {
    case ModelKind::rnn:
    case ModelKind::lstm:
    case ModelKind::gru:
    case ModelKind::transformer:
      return;
    default:
      fail("seq2seq", fmt::format("there is no encoder-decoder of kind {}", to_string(kind)),
           "Known: rnn, lstm, gru, transformer");
  }
}

void check_rows(std::span<const std::int64_t> indices, std::int64_t batch) {
  if (indices.empty()) fail("Seq2Seq::rows", fmt::format("no sequence of a batch of {}", batch));
  for (const std::int64_t i : indices)
    if (i < 0 || i >= batch)
      fail("Seq2Seq::rows", fmt::format("sequence {} of a batch of {}", i, batch));
}

template <class Layer, class Options>
std::unique_ptr<RecurrentLayer> make_encoder(const Seq2SeqConfig& c, GeneratorRef& g) {
  return std::make_unique<Layer>(Options{.input_size = c.embedding,
                                         .hidden_size = c.hidden / 2,
                                         .num_layers = c.layers,
                                         .dropout = c.dropout,
                                         .bidirectional = true},
                                 g);
}

std::unique_ptr<RecurrentLayer> make_encoder(const Seq2SeqConfig& c, GeneratorRef& g) {
  switch (c.kind) {
    case ModelKind::rnn:
      return make_encoder<RNN, RNNOptions>(c, g);
    case ModelKind::gru:
      return make_encoder<GRU, GRUOptions>(c, g);
    default:
      return make_encoder<LSTM, LSTMOptions>(c, g);
  }
}

std::unique_ptr<RecurrentCell> make_cell(const Seq2SeqConfig& c, int layer, GeneratorRef& g) {
  const std::int64_t input = layer == 0 ? c.embedding + c.hidden : c.hidden;
  switch (c.kind) {
    case ModelKind::rnn:
      return std::make_unique<RNNCell>(RNNCellOptions{input, c.hidden}, g);
    case ModelKind::gru:
      return std::make_unique<GRUCell>(GRUCellOptions{input, c.hidden}, g);
    default:
      return std::make_unique<LSTMCell>(LSTMCellOptions{input, c.hidden}, g);
  }
}

class RecurrentSeq2Seq : public Seq2Seq {
 public:
  RecurrentSeq2Seq(const Seq2SeqConfig& c, GeneratorRef g)
      : kind_(c.kind),
        size_(c.hidden),
        source_embed_(c.source_vocabulary, c.embedding, g),
        encoder_(make_encoder(c, g)),
        target_embed_(c.target_vocabulary, c.embedding, g),
        attention_({.query_size = c.hidden, .memory_size = c.hidden, .score = c.attention}, g),
        combine_(2 * c.hidden, c.hidden, g),
        head_(c.hidden, c.target_vocabulary, g),
        dropout_(c.dropout, g) {
    add("source_embed", source_embed_);
    add("encoder", *encoder_);
    add("target_embed", target_embed_);
    for (int i = 0; i < c.layers; ++i) {
      cells_.push_back(make_cell(c, i, g));
      add(fmt::format("cells.{}", i), *cells_.back());
    }
    add("attention", attention_);
    add("combine", combine_);
    add("head", head_);
    if (c.dropout > 0) add("dropout", dropout_);
  }

  Decoding encode(const Tensor& source, const Tensor& lengths) override {
    check_source(source);
    const Output encoded =
        (*encoder_)(dropout_(source_embed_(source)), RecurrentCall{.lengths = lengths});
    const Tensor memory = transpose(encoded.output, 0, 1);
    Decoding start{.memory = {memory, attention_.keys(memory)}, .lengths = lengths, .kind = kind_};
    if (lengths.defined())
      start.memory.push_back(permute(length_mask("encode", lengths, source.size(0), source.size(1),
                                                 memory.dtype(), Where::current()),
                                     {1, 2, 0}));
    for (std::size_t layer = 0; layer < cells_.size(); ++layer)
      for (const Tensor& last : encoded.state) {  // [layers * 2, B, H / 2]
        const auto forward = static_cast<std::int64_t>(2 * layer);
        start.state.push_back(concat({select(last, 0, forward), select(last, 0, forward + 1)}, 1));
      }
    start.state.push_back(Tensor::zeros(start.state[0].shape(), memory.dtype()));
    return start;
  }

  Output decode(const Tensor& tokens, const Decoding& at) override {
    check_tokens("decode", tokens, 2, check("decode", at));
    check_data_to_compute("decode", at, tokens);
    const Tensor embedded = dropout_(target_embed_(tokens));
    const Cell cell = [&](const Tensor& x, const State& state) { return run(x, state, at); };
    Output result;
    if (tokens.size(0) == 1) {  // a trace would not pay
      result = cell(select(embedded, 0, 0), at.state);
      result.output = unsqueeze(result.output, 0);
    } else {
      result = scan(cell, embedded, at.state);
    }
    result.output = head_(dropout_(result.output));
    return result;
  }

  int batch_axis() const override { return 0; }
  std::string describe() const override { return "RecurrentSeq2Seq"; }

 protected:
  std::int64_t check(const char* op, const Decoding& at) const override {
    const DecodingCheck check(op, at, kind_, at.lengths.defined() ? 3 : 2);
    const DType dtype = head_.weight.dtype();
    check.memory(0, {any_size, any_size, size_}, dtype);
    const std::int64_t batch = at.memory[0].size(0), steps = at.memory[0].size(1);
    check.memory(1, {batch, steps, size_}, dtype);
    if (at.memory.size() > 2) check.memory(2, {batch, 1, steps}, dtype);
    check.lengths(batch);
    check.state_count({cells_.size() * (kind_ == ModelKind::lstm ? 2 : 1) + 1});
    for (std::size_t i = 0; i < at.state.size(); ++i) check.state(i, {batch, size_}, dtype);
    return batch;
  }

 private:
  // The state is that of each cell, then the attentional vector.
  Output run(const Tensor& x, const State& state, const Decoding& at) const {
    State next;
    Tensor h = concat({x, state.back()}, 1);
    const std::size_t each = (state.size() - 1) / cells_.size();
    for (std::size_t layer = 0; layer < cells_.size(); ++layer) {
      const auto first = state.begin() + static_cast<std::ptrdiff_t>(layer * each);
      Output out = (*cells_[layer])(h, State(first, first + static_cast<std::ptrdiff_t>(each)));
      h = out.output;
      for (Tensor& one : out.state) next.push_back(std::move(one));
    }
    const Tensor mask = at.memory.size() > 2 ? at.memory[2] : Tensor();
    const Tensor context = attention_(h, at.memory[1], at.memory[0], mask).context;
    next.push_back(tanh(combine_(concat({context, h}, 1))));
    const Tensor attentional = next.back();
    return {attentional, std::move(next)};
  }

  ModelKind kind_;
  std::int64_t size_;
  Embedding source_embed_;
  std::unique_ptr<RecurrentLayer> encoder_;
  Embedding target_embed_;
  std::vector<std::unique_ptr<RecurrentCell>> cells_;
  DecoderAttention attention_;
  Linear combine_, head_;
  Dropout dropout_;
};

class TransformerSeq2Seq : public Seq2Seq {
 public:
  TransformerSeq2Seq(const Seq2SeqConfig& c, GeneratorRef g)
      : size_(c.hidden),
        layers_(c.layers),
        source_embed_(c.source_vocabulary, c.hidden, g),
        encoder_(stack(c), g),
        target_embed_(c.target_vocabulary, c.hidden, g),
        decoder_(stack(c), g),
        head_(c.hidden, c.target_vocabulary, g),
        dropout_(c.dropout, g) {
    add("source_embed", source_embed_);
    add("encoder", encoder_);
    add("target_embed", target_embed_);
    add("decoder", decoder_);
    add("head", head_);
    if (c.dropout > 0) add("dropout", dropout_);
    // As Vaswani et al.: rows of norm 1, times sqrt(d) on the way in.
    for (Embedding* one : {&source_embed_, &target_embed_})
      one->weight.set_value(
          g->normal(one->weight.shape(), 0, 1 / std::sqrt(static_cast<double>(size_))));
  }

  Decoding encode(const Tensor& source, const Tensor& lengths) override {
    check_source(source);
    const Tensor x = vectors(source_embed_, source, 0);
    return {.memory = decoder_.project(encoder_(x, {.lengths = lengths}).output),
            .lengths = lengths,
            .kind = ModelKind::transformer};
  }

  Output decode(const Tensor& tokens, const Decoding& at) override {
    check_tokens("decode", tokens, 2, check("decode", at));
    check_data_to_compute("decode", at, tokens);
    const std::int64_t past = steps_of(at.state);
    State used = at.state;
    if (has_room(used)) {
      used.pop_back();
      for (Tensor& one : used) one = one.rows(0, past);
    }
    return run(tokens, at, {.cache = used}, past);
  }

  Tensor step(const Tensor& tokens, Decoding& at) override {
    const std::int64_t batch = check("step", at);
    check_tokens("step", tokens, 1, batch);
    check_data_to_compute("step", at, tokens);
    if (Tape::current() != nullptr || tokens.is_abstract() || at.memory[0].is_abstract())
      return Seq2Seq::step(tokens, at);
    const std::int64_t past = steps_of(at.state);
    // What fails from here on leaves `at` as it is: nobody looks behind the steps that it counts.
    State roomy = with_room(at.state, past, batch);
    const Output result = run(unsqueeze(tokens, 0), at, {.cache = roomy, .past = past}, past);
    roomy.push_back(steps_tensor(past + 1, batch));
    at.state = std::move(roomy);
    return select(result.output, 0, 0);
  }

  int batch_axis() const override { return 1; }
  std::string describe() const override { return "TransformerSeq2Seq"; }

 protected:
  std::int64_t check(const char* op, const Decoding& at) const override {
    const auto layers = static_cast<std::size_t>(layers_);
    const DecodingCheck check(op, at, ModelKind::transformer, layers);
    const DType dtype = head_.weight.dtype();
    check.memory(0, {any_size, any_size, 2 * size_}, dtype);
    const std::int64_t memory_steps = at.memory[0].size(0), batch = at.memory[0].size(1);
    for (std::size_t i = 1; i < layers; ++i)
      check.memory(i, {memory_steps, batch, 2 * size_}, dtype);
    check.lengths(batch);
    check.state_count({0, layers, layers + 1});
    if (at.state.empty()) return batch;
    const bool roomy = has_room(at.state);
    // While training, a pass leaves queries too, before the keys and values.
    const bool wide = !roomy && at.state[0].defined() && at.state[0].rank() == 3 &&
                      at.state[0].size(2) == 3 * size_;
    check.state(0, {any_size, batch, (wide ? 3 : 2) * size_}, dtype);
    for (std::size_t i = 1; i < layers; ++i)
      check.state(i, {at.state[0].size(0), batch, at.state[0].size(2)}, dtype);
    if (!roomy) return batch;
    check.state(layers, {1, batch}, DType::i64);
    if (at.state[layers].is_abstract()) detail::check_data(op, at);
    if (const std::int64_t steps = steps_of(at.state); steps < 1 || steps > at.state[0].size(0))
      fail(op, fmt::format("the Decoding counts {} steps in a cache of {}", steps,
                           at.state[0].size(0)));
    return batch;
  }

  State state_rows(const State& state, std::span<const std::int64_t> indices) const override {
    if (!has_room(state)) return Seq2Seq::state_rows(state, indices);
    State result;
    const std::int64_t past = steps_of(state);
    for (std::size_t i = 0; i + 1 < state.size(); ++i) {
      result.push_back(
          Tensor::empty(state[i].shape().with(1, std::ssize(indices)), state[i].dtype()));
      take_into(result[i].bytes(), state[i].rows(0, past), 1, indices);
    }
    result.push_back(steps_tensor(past, std::ssize(indices)));
    return result;
  }

 private:
  // The state is, of each layer, the keys and values of all steps, [T, B, 2 size]. Behind step() it
  // has room for more, [R, B, 2 size], and last comes how many steps there are, i64 [1, B]: a step
  // writes where nobody looks yet, and moves nothing that earlier ones left.
  bool has_room(const State& state) const { return static_cast<int>(state.size()) == layers_ + 1; }
  std::int64_t steps_of(const State& state) const {
    if (has_room(state)) return state.back().ptr<std::int64_t>()[0];
    return state.empty() ? 0 : state[0].size(0);
  }
  static Tensor steps_tensor(std::int64_t steps, std::int64_t batch) {
    return Tensor::full({1, batch}, static_cast<double>(steps), DType::i64);
  }

  // The caches for one step more, in memory that no other state shares.
  State with_room(const State& state, std::int64_t past, std::int64_t batch) const {
    constexpr std::int64_t least = 16;
    const DType dtype = head_.weight.dtype();
    const bool had = has_room(state);
    std::int64_t rows = had ? state[0].size(0) : least;
    while (rows <= past) rows *= 2;
    State result;
    for (std::size_t i = 0; i < static_cast<std::size_t>(layers_); ++i) {
      if (had && state[i].unique() && state[i].size(0) == rows) {
        result.push_back(state[i]);
        continue;
      }
      result.push_back(Tensor::empty({rows, batch, 2 * size_}, dtype));
      if (past == 0) continue;
      Tensor used = state[i].rows(0, past);
      const std::int64_t width = used.size(2);  // while training, more than is of use
      if (width > 2 * size_) used = slice(used, 2, width - 2 * size_, width);
      std::memcpy(result[i].bytes(), used.bytes(),
                  static_cast<std::size_t>(used.numel() * size_of(dtype)));
    }
    return result;
  }

  Output run(const Tensor& tokens, const Decoding& at, TransformerCall call, std::int64_t past) {
    call.causal = true;
    call.projected = at.memory;
    call.memory_lengths = at.lengths;
    Output result = decoder_(vectors(target_embed_, tokens, past), call);
    result.output = head_(result.output);
    return result;
  }

  static TransformerOptions stack(const Seq2SeqConfig& c) {
    return {.d_model = c.hidden,
            .nhead = c.heads,
            .num_layers = c.layers,
            .dropout = c.dropout,
            .norm_first = true};
  }

  Tensor vectors(const Embedding& table, const Tensor& tokens, std::int64_t past) {
    const Tensor embedded = table(tokens);
    const std::int64_t steps = tokens.size(0);
    const Tensor positions = sinusoidal_positions(steps, size_, past, embedded.dtype());
    return dropout_(embedded * std::sqrt(static_cast<double>(size_)) +
                    positions.viewed({steps, 1, size_}));
  }

  std::int64_t size_;
  int layers_;
  Embedding source_embed_;
  TransformerEncoder encoder_;
  Embedding target_embed_;
  TransformerDecoder decoder_;
  Linear head_;
  Dropout dropout_;
};

}  // namespace

Tensor Seq2Seq::step(const Tensor& tokens, Decoding& at) {
  check_tokens("step", tokens, 1, check("step", at));
  Output next = decode(unsqueeze(tokens, 0), at);
  at.state = std::move(next.state);
  return select(next.output, 0, 0);
}

State Seq2Seq::state_rows(const State& state, std::span<const std::int64_t> indices) const {
  State result;
  for (const Tensor& one : state) result.push_back(taken(one, batch_axis(), indices));
  return result;
}

Decoding Seq2Seq::reordered(const Decoding& at, std::span<const std::int64_t> indices) const {
  const std::int64_t batch = check("Seq2Seq::reordered", at);
  detail::check_data("Seq2Seq::reordered", at);
  if (static_cast<std::int64_t>(indices.size()) != batch)
    fail("Seq2Seq::reordered", fmt::format("{} rows for a batch of {}", indices.size(), batch),
         "rows() takes any number of them");
  check_rows(indices, batch);
  Decoding result{.memory = at.memory, .lengths = at.lengths, .kind = at.kind};
  result.state = state_rows(at.state, indices);
  return result;
}

Decoding Seq2Seq::rows(const Decoding& at, std::span<const std::int64_t> indices) const {
  const std::int64_t batch = check("Seq2Seq::rows", at);
  detail::check_data("Seq2Seq::rows", at);
  check_rows(indices, batch);
  Decoding result{.kind = at.kind};
  for (const Tensor& one : at.memory) result.memory.push_back(taken(one, batch_axis(), indices));
  if (at.lengths.defined()) result.lengths = taken(at.lengths, 0, indices);
  result.state = state_rows(at.state, indices);
  return result;
}

ModelKind seq2seq_kind(const std::string& name) {
  const ModelKind kind = model_kind(name);
  check_kind(kind);
  return kind;
}

std::unique_ptr<Seq2Seq> make_seq2seq(const Seq2SeqConfig& c, GeneratorRef generator) {
  const auto need = [](bool fine, const std::string& what, const char* hint = "") {
    if (!fine) fail("seq2seq", what, hint);
  };
  check_kind(c.kind);
  need(c.source_vocabulary > 0 && c.target_vocabulary > 0,
       fmt::format("vocabularies of {} and {} symbols", c.source_vocabulary, c.target_vocabulary));
  need(c.embedding > 0 && c.hidden > 0 && c.layers > 0,
       fmt::format("sizes must be positive, got embedding {}, hidden {}, layers {}", c.embedding,
                   c.hidden, c.layers));
  need(c.hidden % 2 == 0, fmt::format("hidden is {}, an odd number", c.hidden),
       "The encoder's two directions have half each, sines and cosines likewise");
  if (c.kind == ModelKind::transformer) return std::make_unique<TransformerSeq2Seq>(c, generator);
  return std::make_unique<RecurrentSeq2Seq>(c, generator);
}

}  // namespace unroll
