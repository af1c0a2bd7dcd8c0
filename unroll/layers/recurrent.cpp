#include <fmt/format.h>
#include <unroll/layers/recurrent.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>

namespace unroll {

void RecurrentLayer::check_options() const {
  if (common_.num_layers < 1)
    fail(common_.name, fmt::format("num_layers must be 1 or more, got {}", common_.num_layers));
}

template <class Make>
void RecurrentLayer::build(const Common& common, GeneratorRef generator, Make make) {
  common_ = common;
  directions_ = common.bidirectional ? 2 : 1;
  check_options();
  std::int64_t input = common.input_size;
  for (int layer = 0; layer < common.num_layers; ++layer) {
    for (int direction = 0; direction < directions_; ++direction) {
      auto cell = make(input, generator);
      const std::string suffix = fmt::format("_l{}{}", layer, direction == 1 ? "_reverse" : "");
      add("weight_ih" + suffix, cell->weight_ih);
      add("weight_hh" + suffix, cell->weight_hh);
      add("bias_ih" + suffix, cell->bias_ih);
      add("bias_hh" + suffix, cell->bias_hh);
      if constexpr (requires { cell->weight_hr; }) add("weight_hr" + suffix, cell->weight_hr);
      if constexpr (requires { cell->norm_c; }) {
        add("norm_ih" + suffix, cell->norm_ih);
        add("norm_hh" + suffix, cell->norm_hh);
        add("norm_c" + suffix, cell->norm_c);
        add("norm_c_bias" + suffix, cell->norm_c_bias);
      }
      cells_.push_back(std::move(cell));
    }
    input = output_size();
  }
  dropout_ = std::make_unique<Dropout>(common.dropout, generator);
  if (common.dropout > 0) add("dropout", *dropout_);
  const Regularization& regularization = common.regularization;
  if (!regularization.any()) return;
  const bool lstm = initial_state(1).size() > 1;
  if (regularization.zoneout_c != 0 && !lstm)
    fail(common.name, "there is no c for zoneout_c", "zoneout_h is for every recurrent layer");
  if (regularization.update_dropout != 0 && !common.gated)
    fail(common.name, "update_dropout needs a gated cell", "Take hidden_dropout, LSTM or GRU");
  regularizer_ = std::make_unique<Regularizer>(regularization, generator);
  add("regularizer", *regularizer_);
}

State RecurrentLayer::initial_state(std::int64_t batch, DType dtype) const {
  State state = cells_[0]->initial_state(batch, dtype);
  for (Tensor& one : state)
    one = Tensor::zeros(one.shape().inserted(0, static_cast<std::int64_t>(cells_.size())),
                        one.dtype());
  return state;
}

void RecurrentLayer::check(const Tensor& x, const RecurrentCall& call, const Where& where) const {
  const char* layout = common_.batch_first ? "[B, T, {}]" : "[T, B, {}]";
  if (x.rank() != 3 || x.size(2) != common_.input_size)
    throw ShapeError(error_message(
        common_.name,
        fmt::format("the input is {}, expected {}", to_string(x.shape()),
                    fmt::format(fmt::runtime(layout), common_.input_size)),
        &where, x.rank() == 2 ? "Give a single sequence a batch axis with unsqueeze()" : ""));
  if (call.state.empty()) return;
  const State expected = initial_state(x.size(common_.batch_first ? 0 : 1), x.dtype());
  if (call.state.size() != expected.size())
    fail(common_.name,
         fmt::format("its state has {} tensors, got {}", expected.size(), call.state.size()),
         where);
  for (std::size_t k = 0; k < expected.size(); ++k)
    if (call.state[k].shape() != expected[k].shape())
      throw ShapeError(error_message(
          common_.name,
          fmt::format("state {} is {}, expected {}", k, to_string(call.state[k].shape()),
                      to_string(expected[k].shape())),
          &where, "It is [layers * directions, B, size]"));
}

ScanMember RecurrentLayer::member(int index, const RecurrentCall& call, const Tensor& x) const {
  const RecurrentCell& one = *cells_[static_cast<std::size_t>(index)];
  ScanMember result{.cell = [&one](const Tensor& step, const State& s) { return one(step, s); },
                    .state = {},
                    .reverse = index % directions_ == 1};
  if (call.state.empty()) result.state = one.initial_state(x.size(1), x.dtype());
  for (const Tensor& all : call.state) result.state.push_back(select(all, 0, index));
  return result;
}

std::vector<Output> RecurrentLayer::regularized(int layer, std::span<const ScanMember> members,
                                                const Tensor& x, const ScanOptions& options,
                                                const Where& where) const {
  std::vector<Output> results;
  for (std::size_t direction = 0; direction < members.size(); ++direction) {
    ScanOptions own = options;
    own.reverse = members[direction].reverse;
    results.push_back(regularizer_->run(cell(layer, static_cast<int>(direction)), x,
                                        members[direction].state, own, where));
  }
  return results;
}

Output RecurrentLayer::step(int layer, const Tensor& x, const State& state, Where where) const {
  if (!regularizer_) return cell(layer)(x, state);
  Output next = regularizer_->run(cell(layer), unsqueeze(x, 0), state, {.unrolled = true}, where);
  // The very value that goes on to the next step, and not a copy of it among all outputs.
  next.output = next.state[0];
  return next;
}

Output RecurrentLayer::run(const Tensor& input, const RecurrentCall& call,
                           const Where& where) const {
  check(input, call, where);
  Tensor x = common_.batch_first ? transpose(input, 0, 1) : input;
  const ScanOptions options{.lengths = call.lengths,
                            .checkpoint_every = call.checkpoint_every,
                            .unrolled = call.unrolled};
  std::vector<State> last;
  const bool drops = dropout_->training() && common_.dropout > 0;
  const int together = directions_ == 1 && !drops && !regularizer_ ? common_.num_layers : 1;
  for (int layer = 0; layer < common_.num_layers; layer += together) {
    if (layer > 0 && drops) x = (*dropout_)(x);
    std::vector<ScanMember> members;
    for (int i = 0; i < together * directions_; ++i)
      members.push_back(member(layer * directions_ + i, call, x));
    std::vector<Output> results;
    if (regularizer_) {
      results = regularized(layer, members, x, options, where);
    } else {
      results = directions_ == 1 ? scan_stack(members, x, options, where)
                                 : scan_parallel(members, x, options, where);
    }
    for (Output& one : results) last.push_back(std::move(one.state));
    x = directions_ == 2 ? concat({results[0].output, results[1].output}, 2)
                         : results.back().output;
  }
  State state;
  for (std::size_t k = 0; k < last[0].size(); ++k) {
    std::vector<Tensor> parts;
    for (const State& one : last) parts.push_back(one[k]);
    state.push_back(stack(parts, 0));
  }
  return {common_.batch_first ? transpose(x, 0, 1) : x, state};
}

StepForm RecurrentLayer::step_form() const {
  if (directions_ != 1)
    fail(common_.name, "the reverse direction begins at the end, which a stream has not got",
         "Stream a layer in one direction");
  const auto check_training = [this] {
    if ((common_.dropout > 0 && dropout_->training()) || (regularizer_ && regularizer_->training()))
      fail_stream_draws(common_.name);
  };
  check_training();
  const auto step = [this, check_training](const Tensor& x, const Tensor&, const State& state) {
    check_training();
    Output all{x, {}};
    auto own = state.begin();
    for (const auto& cell : cells_) {
      const auto end = own + static_cast<std::ptrdiff_t>(state.size() / cells_.size());
      const State before(own, end);
      Output next = regularizer_ ? regularizer_->expected(*cell, all.output, before)
                                 : (*cell)(all.output, before);
      own = end;
      all.output = std::move(next.output);
      for (Tensor& one : next.state) all.state.push_back(std::move(one));
    }
    return all;
  };
  const auto initial_state = [this](std::int64_t batch) {
    State state;
    for (const auto& cell : cells_)
      for (Tensor& one : cell->initial_state(batch, cell->recurrent_weight().dtype()))
        state.push_back(std::move(one));
    return state;
  };
  return {.step = step, .initial_state = initial_state};
}

std::string RecurrentLayer::describe() const {
  return fmt::format("{}({} -> {}{}{})", common_.name, common_.input_size, common_.hidden_size,
                     common_.num_layers > 1 ? fmt::format(", {} layers", common_.num_layers) : "",
                     common_.bidirectional ? ", bidirectional" : "");
}

RNN::RNN(const RNNOptions& o, GeneratorRef generator) {
  build(
      {"RNN", o.input_size, o.hidden_size, o.num_layers, o.bidirectional, o.batch_first, o.dropout,
       false, o.regularization},
      generator, [&](std::int64_t input, GeneratorRef g) {
        return std::make_unique<RNNCell>(
            RNNCellOptions{
                .input_size = input, .hidden_size = o.hidden_size, .relu = o.relu, .bias = o.bias},
            g);
      });
}

LSTM::LSTM(const LSTMOptions& o, GeneratorRef generator) {
  build({"LSTM", o.input_size, o.hidden_size, o.num_layers, o.bidirectional, o.batch_first,
         o.dropout, true, o.regularization},
        generator, [&](std::int64_t input, GeneratorRef g) {
          return std::make_unique<LSTMCell>(LSTMCellOptions{.input_size = input,
                                                            .hidden_size = o.hidden_size,
                                                            .bias = o.bias,
                                                            .proj_size = o.proj_size,
                                                            .forget_bias = o.forget_bias,
                                                            .layer_norm = o.layer_norm},
                                            g);
        });
}

GRU::GRU(const GRUOptions& o, GeneratorRef generator) {
  build({"GRU", o.input_size, o.hidden_size, o.num_layers, o.bidirectional, o.batch_first,
         o.dropout, true, o.regularization},
        generator, [&](std::int64_t input, GeneratorRef g) {
          return std::make_unique<GRUCell>(GRUCellOptions{.input_size = input,
                                                          .hidden_size = o.hidden_size,
                                                          .bias = o.bias,
                                                          .reset_before = o.reset_before},
                                           g);
        });
}

}  // namespace unroll
