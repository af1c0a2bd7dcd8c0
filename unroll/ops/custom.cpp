#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/custom.h>
#include <unroll/ops/table.h>

#include <memory>

namespace unroll {
namespace {

Tensors copies(Args args) {
  Tensors tensors;
  for (std::size_t i = 0; i < args.size(); ++i) tensors.push_back(args[i]);
  return tensors;
}

struct FunctionOp : OpRecord<FunctionOp> {
  std::shared_ptr<const CustomOp> f;
  explicit FunctionOp(const CustomOp& op) : f(std::make_shared<const CustomOp>(op)) {}

  const char* name() const override { return f->name.c_str(); }
  int outputs() const override { return f->outputs; }
  bool allocates() const override { return true; }
  bool differentiable() const override { return static_cast<bool>(f->vjp); }
  Keep keep() const override { return {.inputs = ~0u, .outputs = ~0u}; }

  void infer(Args in, std::span<Spec> out) const override {
    const Tensors inputs = copies(in);
    if (f->infer) {
      const std::vector<Spec> specs = f->infer(inputs);
      check_count(specs.size());
      std::copy(specs.begin(), specs.end(), out.begin());
      return;
    }
    const NoGrad unrecorded;
    const Tensors results = f->forward(inputs);  // on shapes: it must be made of ops
    check_count(results.size());
    for (std::size_t i = 0; i < results.size(); ++i) out[i] = results[i].spec();
  }

  void forward(Args in, std::span<Tensor> out) const override {
    if (detail::dry && f->infer) {
      std::vector<Spec> specs(out.size());
      infer(in, specs);
      for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = Tensor::empty(specs[i].shape, specs[i].dtype);
      return;
    }
    Tensors results = f->forward(copies(in));
    check_count(results.size());
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (!results[i].defined()) fail(name(), fmt::format("its result {} is undefined", i));
      out[i] = results[i].detach();
    }
  }

  void vjp(Vjp& v) const override {
    Tensors grads;
    for (std::size_t i = 0; i < v.outputs.size(); ++i) grads.push_back(v.grad(i));
    Tensors results = f->vjp(copies(v.inputs), copies(v.outputs), grads);
    if (results.size() != v.inputs.size())
      fail(name(),
           fmt::format("its vjp returns {} gradients for {} inputs", results.size(),
                       v.inputs.size()),
           "Return one for every input, undefined where there is none");
    for (std::size_t i = 0; i < results.size(); ++i) v.result[i] = std::move(results[i]);
  }

  Rows rows(Args, std::span<const bool> stacked) const override {
    for (bool one : stacked)
      if (!one) return Rows::none;
    return f->rows ? Rows::map : Rows::none;
  }

 private:
  void check_count(std::size_t got) const {
    if (got != static_cast<std::size_t>(f->outputs))
      fail(name(), fmt::format("gives {} results where {} are declared", got, f->outputs));
  }
};

const RegisterOp row{{
    .name = "custom_op",
    .signature = "custom_op(name, {inputs}, forward, vjp)",
    .summary = "An op of the user's from two functions",
    .samples = {{.inputs = [](Generator& g) -> Tensors {
                   return {g.normal({3, 4}, 0, 1, DType::f64), g.normal({3, 4}, 0, 1, DType::f64)};
                 },
                 .call = [](std::span<const Tensor> in) -> Tensors {
                   return {custom_op(
                       "fma", {in[0], in[1]}, [](auto x) { return x[0] * x[1] + x[0]; },
                       [](auto x, auto, auto g) -> Tensors {
                         return {g[0] * x[1] + g[0], g[0] * x[0]};
                       })};
                 }},
                {.inputs = [](Generator& g) -> Tensors {
                   return {g.normal({5}, 0, 1, DType::f64)};
                 },
                 .call = [](std::span<const Tensor> in) -> Tensors {
                   return {custom_vjp([](auto x) { return exp(x[0]); },
                                      [](auto, auto y, auto g) -> Tensors { return {g[0] * y[0]}; },
                                      {in[0]})};
                 }}},
}};

}  // namespace

Tensors apply(const CustomOp& op, std::span<const Tensor> inputs, Where where) {
  if (!op.forward) fail(op.name, "has no forward function", where);
  std::vector<const Tensor*> args;
  for (const Tensor& input : inputs) args.push_back(&input);
  Tensors out(static_cast<std::size_t>(op.outputs));
  apply(FunctionOp(op), Args(args), out, where);
  return out;
}

Tensor custom_op(std::string name, std::initializer_list<Tensor> inputs,
                 std::function<Tensor(std::span<const Tensor>)> forward,
                 std::function<Tensors(std::span<const Tensor>, std::span<const Tensor>,
                                       std::span<const Tensor>)>
                     vjp,
                 Where where) {
  const CustomOp op{.name = std::move(name),
                    .forward = [f = std::move(forward)](std::span<const Tensor> in) -> Tensors {
                      return {f(in)};
                    },
                    .vjp = std::move(vjp)};
  return apply(op, std::span(inputs.begin(), inputs.size()), where)[0];
}

}  // namespace unroll
