// Products in bf16: their values, whose gradients, what stays f32, and where they do not exist.

#include <unroll/graph/precision.h>
#include <unroll/graph/program.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/layers/recurrent.h>
#include <unroll/layers/transformer.h>
#include <unroll/ops/amx.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/bf16.h>
#include <unroll/ops/matmul.h>
#include <unroll/ops/reduce.h>
#include <unroll/optim/adam.h>

#include <bit>
#include <limits>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

bool available() {
  if (bf16_support().complete()) return true;
  WARN("no bf16 here: not tested");
  return false;
}

Tensor numbers(const Shape& shape, std::uint64_t seed) { return normal(shape, seed, DType::f32); }

// x as products in bf16 see it.
Tensor rounded(const Tensor& x) {
  const Tensor halves = detail::rounded_to_bf16(x.ptr<float>(), x.numel());
  Tensor result = Tensor::empty(x.shape());
  for (std::int64_t i = 0; i < x.numel(); ++i)
    result.mutable_ptr<float>()[i] =
        std::bit_cast<float>(static_cast<std::uint32_t>(halves.ptr<detail::Bf16>()[i]) << 16);
  return result;
}

// The largest difference in parts of the largest value of b.
double relative(const Tensor& a, const Tensor& b) {
  return difference(a, b) / difference(b, Tensor::zeros(b.shape()));
}

struct Product {
  Shape a, b, add;
  bool transpose_a, transpose_b;
};
const std::vector<Product> products{
    {{7, 5}, {5, 9}, {}, false, false},
    {{1, 33}, {40, 33}, {40}, false, true},
    {{33, 20}, {33, 17}, {}, true, false},
    {{19, 6}, {8, 19}, {}, true, true},
    {{3, 10, 31}, {31, 12}, {12}, false, false},
    {{2, 3, 8, 15}, {2, 3, 15, 4}, {}, false, false},
    {{4, 6, 10}, {4, 9, 10}, {4, 6, 9}, false, true},
    {{32, 512}, {2048, 512}, {}, false, true},
    {{300, 1001}, {70, 1001}, {}, false, true},
    {{1001, 300}, {1001, 70}, {}, true, false},
};

struct Values {
  Tensor value;
  std::vector<Tensor> grads;
};

// A product and its gradients, from a tape of this precision.
Values run(const Product& p, DType precision, DType dtype = DType::f32) {
  Tape tape{{.precision = precision}};
  const Tensor a = tape.watch(normal(p.a, 1, dtype)), b = tape.watch(normal(p.b, 2, dtype));
  const Tensor add = p.add.rank() > 0 ? normal(p.add, 3, dtype) : Tensor();
  const Tensor y =
      matmul(a, b, {.transpose_a = p.transpose_a, .transpose_b = p.transpose_b, .add = add});
  const Tensor seed = normal(y.shape(), 4, dtype), wrt[] = {a, b};
  return {y, tape.gradient(std::span(&y, 1), wrt, {.seeds = std::span(&seed, 1)})};
}

// Outputs of a model and the gradients of its parameters.
template <class Model>
std::vector<Tensor> differentiate(Model& model, const Tensor& x, DType precision) {
  for (Parameter p : model.parameters()) p.zero_grad();
  Tape tape{{.precision = precision}};
  const Tensor y = model(x).output;
  tape.backward(sum(y * numbers(y.shape(), 5)));
  std::vector<Tensor> result{y};
  for (const Parameter& p : model.parameters()) result.push_back(p.grad());
  return result;
}

}  // namespace

TEST_CASE("bf16 is the nearest one, the even one of two, and keeps what is no number") {
  const auto bits = [](float value) { return detail::rounded_to_bf16(&value, 1); };
  const auto is = [&](float value, detail::Bf16 expected) {
    const Tensor one = bits(value);
    CHECK(*one.ptr<detail::Bf16>() == expected);
  };
  is(1.0f, 0x3F80);
  is(-2.5f, 0xC020);
  is(1.0f + 0x1p-8f, 0x3F80);             // half way: down to the even one
  is(1.0f + 3 * 0x1p-8f, 0x3F82);         // half way: up
  is(1.0f + 0x1p-8f + 0x1p-20f, 0x3F81);  // more than half
  is(std::numeric_limits<float>::infinity(), 0x7F80);
  is(std::numeric_limits<float>::max(), 0x7F80);
  const Tensor nan = bits(std::bit_cast<float>(0x7F800001u));
  CHECK((*nan.ptr<detail::Bf16>() & 0x7F) != 0);
}

TEST_CASE("a bf16 product is that of the rounded operands, summed in f32") {
  if (!available()) return;
  for (const Product& p : products) {
    CAPTURE(to_string(p.a), to_string(p.b), p.transpose_a, p.transpose_b);
    const auto of = [&](const Tensor& a, const Tensor& b, DType dtype) {
      return matmul(a.to(dtype), b.to(dtype),
                    {.transpose_a = p.transpose_a,
                     .transpose_b = p.transpose_b,
                     .add = p.add.rank() > 0 ? numbers(p.add, 3).to(dtype) : Tensor()});
    };
    const Tensor a = numbers(p.a, 1), b = numbers(p.b, 2);
    const auto k = static_cast<double>(p.a[p.transpose_a ? -2 : -1]);
    const Values bf16 = run(p, DType::bf16);
    CHECK(bf16.value.dtype() == DType::f32);
    // Terms of size 1, some up to 15: sums of k of them, each addition off by a half place.
    CHECK(difference(bf16.value, of(rounded(a), rounded(b), DType::f64)) < 1e-6 * (k + 10));
    // Each operand is off by 2^-9 of itself, independently of the others.
    CHECK(difference(bf16.value, of(a, b, DType::f64)) < 0x1p-8 * 6 * std::sqrt(k));
  }
}

TEST_CASE("what a bf16 tape records is walked back in bf16, and f64 stays f64") {
  if (!available()) return;
  for (const Product& p : products) {
    CAPTURE(to_string(p.a), to_string(p.b), p.transpose_a, p.transpose_b);
    const Values bf16 = run(p, DType::bf16), f32 = run(p, DType::f32);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(bf16.grads[i].dtype() == DType::f32);
      CHECK(relative(bf16.grads[i], f32.grads[i]) < 0x1p-7);
      CHECK(relative(bf16.grads[i], f32.grads[i]) > 0x1p-16);
    }
    const Values f64 = run(p, DType::bf16, DType::f64);
    const Values exact = run(p, DType::f32, DType::f64);
    CHECK(same_bits(f64.value, exact.value));
    for (std::size_t i = 0; i < 2; ++i) CHECK(same_bits(f64.grads[i], exact.grads[i]));
  }
}

TEST_CASE("without a bf16 tape products are f32: before, behind, under NoGrad") {
  if (!available()) return;
  const Tensor a = numbers({20, 30}, 1), b = numbers({30, 10}, 2);
  const Tensor before = matmul(a, b);
  {
    Tape tape{{.precision = DType::bf16}};
    CHECK(!same_bits(matmul(a, b), before));
    const NoGrad constant;
    CHECK(same_bits(matmul(a, b), before));
  }
  Tape tape;
  CHECK(same_bits(matmul(a, b), before));
}

TEST_CASE("bf16 products have the same bits on one thread and two") {
  if (!available()) return;
  std::vector<Product> large{{{300, 1001}, {70, 1001}, {}, false, true},
                             {{1001, 300}, {1001, 190}, {}, true, false},
                             {{700, 512}, {512, 256}, {256}, false, false},
                             {{1024, 2048}, {1024, 96}, {}, true, false},
                             {{40, 64, 128}, {40, 128, 64}, {}, false, false}};
  // Deep ones with few columns, which only tiles sum in one order.
  if (detail::amx::available())
    for (const Product& deep : {Product{{336, 1956}, {1956, 66}, {}, false, false},
                                Product{{1471, 35}, {1471, 837}, {}, true, false},
                                Product{{1343, 65}, {489, 65}, {}, false, true}})
      large.push_back(deep);
  for (const Product& p : large) {
    CAPTURE(to_string(p.a), to_string(p.b));
    const Values one = run(p, DType::bf16);
    set_threads(2);
    const Values two = run(p, DType::bf16);
    set_threads(1);
    CHECK(same_bits(one.value, two.value));
    for (std::size_t i = 0; i < 2; ++i) CHECK(same_bits(one.grads[i], two.grads[i]));
  }
  Generator g(1);
  LSTM lstm({.input_size = 64, .hidden_size = 384}, g);  // a step's product is cut too
  const Tensor x = numbers({3, 64, 64}, 1);
  const std::vector<Tensor> one = differentiate(lstm, x, DType::bf16);
  set_threads(2);
  const std::vector<Tensor> two = differentiate(lstm, x, DType::bf16);
  set_threads(1);
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], two[i]));
}

TEST_CASE("an LSTM and a Transformer layer in bf16 have nearly f32's values and gradients") {
  if (!available()) return;
  Generator g(1);
  const auto check = [](const std::vector<Tensor>& bf16, const std::vector<Tensor>& f32) {
    for (std::size_t i = 0; i < f32.size(); ++i) {
      CAPTURE(i);
      // The gradient of a bias in front of a softmax is 0 but for rounding.
      const double size = difference(f32[i], Tensor::zeros(f32[i].shape()));
      CHECK(difference(bf16[i], f32[i]) < 0.03 * size + 1e-3);
    }
    CHECK(difference(bf16[0], f32[0]) > 0);
  };
  LSTM lstm({.input_size = 24, .hidden_size = 48, .num_layers = 2, .bidirectional = true}, g);
  const Tensor xs = numbers({12, 6, 24}, 2);
  check(differentiate(lstm, xs, DType::bf16), differentiate(lstm, xs, DType::f32));
  TransformerEncoderLayer layer({.d_model = 32, .nhead = 4, .activation = FeedForward::gelu}, g);
  const Tensor x = numbers({10, 3, 32}, 3);
  check(differentiate(layer, x, DType::bf16), differentiate(layer, x, DType::f32));
}

TEST_CASE("scan and the plain loop agree in bf16") {
  if (!available()) return;
  Generator g(1);
  LSTMCell cell({.input_size = 24, .hidden_size = 48}, g);
  const Tensor xs = numbers({9, 5, 24}, 1);
  const State start = cell.initial_state(5, DType::f32);
  const auto run = [&](bool unrolled, DType precision) {
    for (Parameter p : cell.parameters()) p.zero_grad();
    Tape tape{{.precision = precision}};
    const Tensor y = scan([&](const Tensor& x, const State& s) { return cell(x, s); }, xs, start,
                          {.unrolled = unrolled})
                         .output;
    tape.backward(sum(y * numbers(y.shape(), 2)));
    std::vector<Tensor> result{y};
    for (const Parameter& p : cell.parameters()) result.push_back(p.grad());
    return result;
  };
  const std::vector<Tensor> scanned = run(false, DType::bf16), looped = run(true, DType::bf16),
                            f32 = run(false, DType::f32);
  for (std::size_t i = 0; i < scanned.size(); ++i) {
    CAPTURE(i);
    // Sums in another order now and then round to the neighbouring bf16: far less than f32 is away.
    CHECK(relative(scanned[i], looped[i]) < 1e-3);
    CHECK(relative(scanned[i], f32[i]) > 2 * relative(scanned[i], looped[i]));
  }
}

TEST_CASE("a program traced under a bf16 tape runs in bf16 when that tape is gone") {
  if (!available()) return;
  const Parameter w(numbers({16, 12}, 1));
  const Tensor x = numbers({5, 16}, 2);
  const TraceFunction f = [&](std::span<const Tensor> in) -> std::vector<Tensor> {
    return {matmul(in[0], w)};
  };
  const auto traced = [&](bool keep_weights) {
    Tape tape{{.precision = DType::bf16}};
    return trace(f, {&x, 1}, {.keep_weights = keep_weights});
  };
  Tensor expected;
  {
    Tape tape{{.precision = DType::bf16}};
    expected = f({&x, 1})[0].detach();
  }
  CHECK(difference(expected, f({&x, 1})[0]) > 0);
  for (const bool keep_weights : {false, true}) {
    Program program = traced(keep_weights);
    CHECK(difference(program({x})[0], expected) < 1e-6);
  }
}

TEST_CASE("parameters, gradients and the optimizer's state stay f32 in bf16 training") {
  if (!available()) return;
  Generator g(1);
  LSTM lstm({.input_size = 8, .hidden_size = 16}, g);
  Adam adam(lstm.parameters());
  const Tensor x = numbers({4, 3, 8}, 1);
  differentiate(lstm, x, DType::bf16);
  for (const Parameter& p : lstm.parameters()) CHECK(p.grad().dtype() == DType::f32);
  adam.step();
  for (const Parameter& p : lstm.parameters()) {
    CHECK(p.dtype() == DType::f32);
    CHECK(difference(p.value(), rounded(p.value())) > 0);  // not bf16 in disguise either
  }
  for (const auto& [name, tensor] : adam.state_dict()) {
    CAPTURE(name);
    if (has(name, ".")) CHECK(tensor.dtype() == DType::f32);  // a parameter's moment
  }
}

TEST_CASE("a precision that is not there is an error that says what is missing") {
  CHECK(has(message_of([] { check_precision(DType::bf16, {.onednn = false, .processor = true}); }),
            "[precision] bf16 needs oneDNN"));
  CHECK(has(message_of([] { check_precision(DType::bf16, {.onednn = true, .processor = false}); }),
            "[precision] bf16 needs a processor with AVX512-BF16"));
  CHECK_NOTHROW(check_precision(DType::bf16, {.onednn = true, .processor = true}));
  CHECK_NOTHROW(check_precision(DType::f32, {}));
  CHECK(has(message_of([] { Tape tape{{.precision = DType::i32}}; }), "not in i32"));
  CHECK(Tape::current() == nullptr);
  if (bf16_support().complete()) return;
  CHECK(has(message_of([] { Tape tape{{.precision = DType::bf16}}; }), "[precision] bf16 needs"));
}
