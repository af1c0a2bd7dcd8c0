// What the library's parts cost one by one: products, pointwise ops, layers, the tape itself, and
// every sample of the op table.
#include <benchmark/benchmark.h>
#include <unroll/ops/gemm.h>
#include <unroll/ops/table.h>
#include <unroll/unroll.h>

#include <cmath>

namespace unroll::bench {
namespace {

using benchmark::State;

void set_rate(State& state, double flops) {
  state.counters["FLOPS"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate,
                                               benchmark::Counter::kIs1000);
}

// The error of a b^T's elements, relative to what their terms sum up to in size: root mean square.
double error_of(const Tensor& c, const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(DType::f64), y = b.to(DType::f64);
  const Tensor off = (c.to(DType::f64) - matmul(x, y, {.transpose_b = true})) /
                     matmul(abs(x), abs(y), {.transpose_b = true});
  return std::sqrt(mean(square(off)).item());
}

// `multiply`: matmul(), or oneDNN whatever the processor has.
template <class F>
void product(State& state, const F& multiply) {
  const std::int64_t m = state.range(0), k = state.range(1), n = state.range(2);
  Generator g(1);
  const Tensor a = g.normal({m, k}, 0, 1), b = g.normal({n, k}, 0, 1);
  for (auto _ : state) benchmark::DoNotOptimize(multiply(a, b));
  set_rate(state, 2.0 * static_cast<double>(m * k * n));
  state.counters["error"] = error_of(multiply(a, b), a, b);
}
void product_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"m", "k", "n"});
  for (const std::vector<std::int64_t>& shape :
       std::vector<std::vector<std::int64_t>>{{768, 128, 512},
                                              {1600, 64, 512},
                                              {2048, 256, 1024},
                                              {2048, 1024, 256},
                                              {64, 512, 2048},
                                              {32, 128, 512},
                                              {32, 512, 2048},
                                              {1, 256, 1024}})
    b->Args(shape);
}
const auto any_way = [](const Tensor& a, const Tensor& b) {
  return matmul(a, b, {.transpose_b = true});
};
BENCHMARK_CAPTURE(product, matmul, any_way)->Apply(product_shapes);
#ifndef UNROLL_NO_ONEDNN
const auto by_onednn = [](const Tensor& a, const Tensor& b) {
  Tensor c = Tensor::empty({a.size(0), b.size(0)});
  const Gemm g{.transpose_b = true, .m = a.size(0), .n = b.size(0), .k = a.size(1)};
  detail::gemm_onednn(g, a.ptr<float>(), b.ptr<float>(), nullptr, c.mutable_ptr<float>());
  return c;
};
BENCHMARK_CAPTURE(product, onednn, by_onednn)->Apply(product_shapes);
#endif

// Bytes a second tell how far from memory's own speed a pass is.
template <class F>
void pointwise_forward(State& state, const F& f) {
  Generator g(1);
  const Tensor x = g.normal({state.range(0)}, 0, 1), y = g.normal({state.range(0)}, 0, 1);
  for (auto _ : state) benchmark::DoNotOptimize(f(x, y));
  state.SetBytesProcessed(state.iterations() * state.range(0) * 3 * 4);
}
template <class F>
void pointwise_training(State& state, const F& f) {
  Generator g(1);
  const Tensor x = g.normal({state.range(0)}, 0, 1), y = g.normal({state.range(0)}, 0, 1);
  for (auto _ : state) {
    Tape tape;
    const Tensor a = tape.watch(x), b = tape.watch(y);
    benchmark::DoNotOptimize(tape.gradient(sum(f(a, b)), {a, b}));
  }
}
const auto gated = [](const Tensor& x, const Tensor& y) {
  return pointwise([](auto a, auto b) { return sigmoid(a) * tanh(b); }, x, y);
};
const auto added = [](const Tensor& x, const Tensor& y) { return x + y; };
BENCHMARK_CAPTURE(pointwise_forward, add, added)->Arg(1 << 12)->Arg(1 << 20);
BENCHMARK_CAPTURE(pointwise_forward, sigmoid_tanh, gated)->Arg(1 << 12)->Arg(1 << 20);
BENCHMARK_CAPTURE(pointwise_training, sigmoid_tanh, gated)->Arg(1 << 12)->Arg(1 << 20);

void tape_overhead(State& state) {
  const Tensor x = Tensor::zeros({1});
  for (auto _ : state) {
    Tape tape;
    const Tensor start = tape.watch(x);
    Tensor y = start;
    for (int i = 0; i < 1000; ++i) y = y * 1.0001;
    benchmark::DoNotOptimize(tape.gradient(y, {start}));
  }
  state.SetItemsProcessed(state.iterations() * 1000);
}
BENCHMARK(tape_overhead);

// A Transformer that writes so many symbols of 32 sequences: into a cache with room, or joining
// every step's keys and values to those of earlier ones.
void decoding(State& state, bool joined) {
  Generator g(1);
  const auto model = make_seq2seq({.kind = ModelKind::transformer,
                                   .source_vocabulary = 1000,
                                   .target_vocabulary = 1000,
                                   .hidden = 128,
                                   .layers = 2},
                                  g);
  model->eval();
  const Tensor source = Tensor::full({20, 32}, 5, DType::i64);
  const Tensor symbols = Tensor::full({32}, 7, DType::i64);
  for (auto _ : state) {
    Decoding at = model->encode(source);
    for (std::int64_t t = 0; t < state.range(0); ++t) {
      if (joined) {
        at.state = model->decode(unsqueeze(symbols, 0), at).state;
      } else {
        model->step(symbols, at);
      }
    }
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK_CAPTURE(decoding, joined, true)->Arg(16)->Arg(128)->Arg(512);
BENCHMARK_CAPTURE(decoding, room, false)->Arg(16)->Arg(128)->Arg(512);

// Each layer on [T 64, B 16, 128] floats, or indices where it is an Embedding.
constexpr std::int64_t steps = 64, batch = 16, width = 128;

Tensor tensor_of(const Tensor& y) { return y; }
template <class Result>
requires requires(const Result& r) { r.output; }
Tensor tensor_of(const Result& result) { return result.output; }

template <class Layer, class... Arguments>
void add_layer(const char* name, const Arguments&... arguments) {
  const auto input = [] {
    Generator g(2);
    if constexpr (std::is_same_v<Layer, Embedding>) {
      Tensor indices = Tensor::empty({steps, batch}, DType::i64);
      for (std::int64_t& i : indices.mutable_data<std::int64_t>()) i = g.below(width);
      return indices;
    } else {
      return g.normal({steps, batch, width}, 0, 1);
    }
  };
  benchmark::RegisterBenchmark((std::string("forward/") + name).c_str(), [=](State& state) {
    Layer layer(arguments...);
    layer.eval();
    const Tensor x = input();
    benchmark::DoNotOptimize(tensor_of(layer(x)));
    for (auto _ : state) benchmark::DoNotOptimize(tensor_of(layer(x)));
  });
  benchmark::RegisterBenchmark((std::string("training/") + name).c_str(), [=](State& state) {
    Layer layer(arguments...);
    Adam adam(layer.parameters());
    const Tensor x = input();
    const auto step = [&] {
      adam.zero_grad();
      Tape tape;
      tape.backward(mean(square(tensor_of(layer(x)))));
      adam.step();
    };
    step();  // products are compiled and memory is cached at the first
    for (auto _ : state) step();
  });
}

template <class Layer, class Options>
void add_streaming(const char* name, const Options& options) {
  benchmark::RegisterBenchmark((std::string("streaming/") + name).c_str(), [=](State& state) {
    Layer layer(options);
    Generator g(1);
    const Tensor x = g.normal({1, 1, width}, 0, 1);
    unroll::State carried = layer.initial_state(1);
    for (auto _ : state) carried = layer(x, carried).state;
  });
}

void add_op(const OpEntry& entry, std::size_t index) {
  const std::string name = "op/" + entry.name + "/" + std::to_string(index);
  benchmark::RegisterBenchmark(name.c_str(), [&entry, index](State& state) {
    Generator g(1);
    const OpSample& sample = entry.samples[index];
    std::vector<Tensor> inputs = sample.inputs(g);
    for (Tensor& input : inputs)
      if (input.dtype() == DType::f64) input = input.to(DType::f32);
    for (auto _ : state) benchmark::DoNotOptimize(sample.call(inputs));
  });
}

}  // namespace

void add_micro_benchmarks() {
  const RNNOptions rnn{.input_size = width, .hidden_size = width};
  const LSTMOptions lstm{.input_size = width, .hidden_size = width};
  const GRUOptions gru{.input_size = width, .hidden_size = width};
  add_layer<Linear>("Linear", width, width);
  add_layer<Embedding>("Embedding", width, width);
  add_layer<LayerNorm>("LayerNorm", width);
  add_layer<RMSNorm>("RMSNorm", width);
  add_layer<RNN>("RNN", rnn);
  add_layer<LSTM>("LSTM", lstm);
  add_layer<GRU>("GRU", gru);
  add_layer<MultiHeadAttention>("MultiHeadAttention",
                                MultiHeadAttentionOptions{.embed_dim = width, .num_heads = 4});
  add_layer<TransformerEncoderLayer>("TransformerEncoderLayer",
                                     TransformerOptions{.d_model = width, .nhead = 4});
  add_streaming<RNN>("RNN", rnn);
  add_streaming<LSTM>("LSTM", lstm);
  add_streaming<GRU>("GRU", gru);
  for (const OpEntry* entry : op_table())
    for (std::size_t i = 0; i < entry->samples.size(); ++i) add_op(*entry, i);
}

}  // namespace unroll::bench
