#include <unroll/graph/error.h>
#include <unroll/graph/generator.h>
#include <unroll/graph/gradient_check.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/table.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "../catch.h"
#include "../tensors.h"

using namespace unroll;

namespace {

std::vector<Tensor> sample_inputs(const OpSample& sample) {
  Generator generator(1);
  return sample.inputs(generator);
}

std::vector<std::size_t> wrt_of(const OpSample& sample, std::span<const Tensor> inputs) {
  if (!sample.wrt.empty()) return sample.wrt;
  std::vector<std::size_t> wrt;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].dtype() == DType::f64) wrt.push_back(i);
  return wrt;
}

// Runs `test(sample, inputs)` for every sample of every op, each in a section that names it.
template <class F>
void for_every_sample(const F& test) {
  for (const OpEntry* entry : op_table())
    for (std::size_t i = 0; i < entry->samples.size(); ++i)
      DYNAMIC_SECTION(entry->name << ", sample " << i) {
        const OpSample& sample = entry->samples[i];
        test(*entry, sample, sample_inputs(sample));
      }
}

// a over b along the leading axis.
Tensor put_together(const Tensor& a, const Tensor& b) {
  Tensor both = Tensor::empty(a.shape().with(0, a.size(0) + b.size(0)), a.dtype());
  const auto bytes = [](const Tensor& x) {
    return static_cast<std::size_t>(x.numel() * size_of(x.dtype()));
  };
  std::memcpy(both.bytes(), a.bytes(), bytes(a));
  std::memcpy(both.bytes() + bytes(a), b.bytes(), bytes(b));
  return both;
}

// Other values of the same kind.
Tensor changed(const Tensor& x) {
  Tensor result = x.clone();
  if (x.dtype() == DType::f64)
    for (double& value : result.mutable_data<double>()) value *= 0.7;
  return result;
}

std::vector<Tensor> run_op(const Op& op, const std::vector<Tensor>& inputs) {
  std::vector<const Tensor*> pointers;
  for (const Tensor& tensor : inputs) pointers.push_back(&tensor);
  std::vector<Tensor> outputs(static_cast<std::size_t>(op.outputs()));
  const NoGrad quiet;
  apply(op, Args(pointers), outputs, Where::current());
  return outputs;
}

// What `op` says about several calls put together, tried with two.
void check_rows(const Op& op, const std::vector<Tensor>& first, std::span<const bool> stacked) {
  std::vector<const Tensor*> pointers;
  for (const Tensor& tensor : first) pointers.push_back(&tensor);
  const Rows rows = op.rows(Args(pointers), stacked);
  if (rows == Rows::none) return;
  INFO("record " << op.name());
  std::vector<Tensor> second = first, both = first;
  for (std::size_t i = 0; i < first.size(); ++i) {
    INFO("input " << i << " " << to_string(first[i]) << (stacked[i] ? " stacked" : ""));
    if (!stacked[i]) continue;
    REQUIRE(first[i].rank() > 0);
    second[i] = changed(first[i]);
    both[i] = put_together(first[i], second[i]);
  }
  const std::vector<Tensor> a = run_op(op, first), b = run_op(op, second), ab = run_op(op, both);
  for (std::size_t o = 0; o < ab.size(); ++o) {
    if (rows == Rows::map) {
      CHECK(difference(ab[o], put_together(a[o], b[o])) <= 1e-12);
      continue;
    }
    Tensor sum = a[o].clone();
    for (std::int64_t i = 0; i < sum.numel(); ++i)
      sum.mutable_data<double>()[i] += b[o].data<double>()[i];
    CHECK(difference(ab[o], sum) <= 1e-12);
  }
}

}  // namespace

TEST_CASE("every op is described and has samples") {
  REQUIRE_FALSE(op_table().empty());
  for (const OpEntry* entry : op_table()) {
    INFO(entry->name);
    CHECK_FALSE(entry->samples.empty());
    CHECK_FALSE(entry->signature.empty());
    CHECK_FALSE(entry->summary.empty());
  }
}

TEST_CASE("gradients equal central differences") {
  for_every_sample([](const OpEntry& entry, const OpSample& sample, std::vector<Tensor> inputs) {
    if (!entry.differentiable) return;
    const std::vector<std::size_t> wrt = wrt_of(sample, inputs);
    CHECK(gradient_error(sample.call, inputs, wrt) <= 1e-6);
    // Each input alone: a vjp may leave out what nobody asked for, and nothing else.
    if (wrt.size() > 1)
      for (std::size_t one : wrt) {
        INFO("by input " << one << " alone");
        CHECK(gradient_error(sample.call, inputs, std::span(&one, 1)) <= 1e-6);
      }
  });
}

TEST_CASE("gradients of gradients equal central differences") {
  for_every_sample([](const OpEntry& entry, const OpSample& sample, std::vector<Tensor> inputs) {
    if (!entry.differentiable || !entry.twice) return;
    const std::vector<std::size_t> wrt = wrt_of(sample, inputs);
    CHECK(gradient_error(gradient_of(sample.call, wrt), inputs, wrt) <= 1e-6);
  });
}

TEST_CASE("f32 is f64 within the budget") {
  for_every_sample([](const OpEntry& entry, const OpSample& sample, std::vector<Tensor> inputs) {
    std::vector<Tensor> narrow = inputs;
    for (Tensor& tensor : narrow)
      if (tensor.dtype() == DType::f64) tensor = tensor.to(DType::f32);
    // Rounded alike, so that only the op's own error remains.
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].dtype() == DType::f64) inputs[i] = narrow[i].to(DType::f64);
    const std::vector<std::size_t> wrt = wrt_of(sample, inputs);
    const auto run = [&](const std::vector<Tensor>& at) {
      std::vector<Tensor> results = sample.call(at);
      if (entry.differentiable)
        for (Tensor& gradient : gradient_of(sample.call, wrt)(at)) results.push_back(gradient);
      return results;
    };
    const std::vector<Tensor> wide = run(inputs), result = run(narrow);
    REQUIRE(wide.size() == result.size());
    const double budget = entry.f32_error * std::numeric_limits<float>::epsilon();
    for (std::size_t k = 0; k < wide.size(); ++k) {
      INFO("result " << k);
      REQUIRE(wide[k].shape() == result[k].shape());
      const Tensor a = wide[k].to(DType::f64), b = result[k].to(DType::f64);
      double scale = 1;
      for (double value : a.data<double>())
        if (std::isfinite(value)) scale = std::max(scale, std::abs(value));
      double worst = 0;
      for (std::int64_t i = 0; i < a.numel(); ++i)
        if (a.data<double>()[i] != b.data<double>()[i])
          worst = std::max(worst, std::abs(a.data<double>()[i] - b.data<double>()[i]) / scale);
      CHECK(worst <= budget);
    }
  });
}

TEST_CASE("one thread and two give the same bits") {
  for_every_sample([](const OpEntry&, const OpSample& sample, std::vector<Tensor> inputs) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      for (Tensor& tensor : inputs)
        if (is_float(tensor.dtype())) tensor = tensor.to(dtype);
      set_threads(1);
      const std::vector<Tensor> one = sample.call(inputs);
      set_threads(2);
      const std::vector<Tensor> two = sample.call(inputs);
      set_threads(1);
      REQUIRE(one.size() == two.size());
      for (std::size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], two[i]));
    }
  });
}

TEST_CASE("rows() says what becomes of calls put together") {
  for_every_sample([](const OpEntry& entry, const OpSample& sample, std::vector<Tensor> inputs) {
    // Every record that the op and its gradient consist of, each choice of stacked inputs.
    Tape tape({.trace = true});
    if (entry.differentiable) {
      gradient_of(sample.call, wrt_of(sample, inputs))(inputs);
    } else {
      sample.call(inputs);
    }
    for (std::size_t n = 0; n < tape.size(); ++n) {
      const Node& node = tape.node(n);
      if (node.op == nullptr || node.op->random() || node.input_count > 5) continue;
      std::vector<Tensor> in;
      for (std::uint32_t i = 0; i < node.input_count; ++i)
        in.push_back(tape.value(node.inputs[i]).tensor);
      for (unsigned choice = 1; choice < 1u << in.size(); ++choice) {
        bool stacked[5], possible = true;
        for (std::size_t i = 0; i < in.size(); ++i) {
          stacked[i] = ((choice >> i) & 1u) != 0;
          possible = possible && !(stacked[i] && in[i].rank() == 0);
        }
        if (possible) check_rows(*node.op, in, std::span(stacked, in.size()));
      }
    }
  });
}

TEST_CASE("wrong calls throw ShapeError") {
  for (const OpEntry* entry : op_table())
    for (std::size_t i = 0; i < entry->wrong.size(); ++i)
      DYNAMIC_SECTION(entry->name << ", wrong call " << i) {
        CHECK_THROWS_AS(entry->wrong[i](), ShapeError);
        // Every message names an op in brackets, and where it was called from.
        try {
          entry->wrong[i]();
        } catch (const ShapeError& error) {
          const std::string message = error.what();
          INFO(message);
          CHECK(message.front() == '[');
          CHECK(message.find(".cpp:") != std::string::npos);
        }
      }
}
