#include <unroll/graph/bytes.h>
#include <unroll/graph/kernel.h>

#include <array>
#include <cstring>
#include <vector>

namespace unroll {
namespace {

class ForwardKernel : public Kernel {
 public:
  ForwardKernel(const Op& op, Args in) : op_(op), specs_(static_cast<std::size_t>(op.outputs())) {
    for (std::size_t i = 0; i < in.size(); ++i) inputs_.push_back(in[i].spec());
    op.infer(in, specs_);
  }

  void run(const std::byte* const* in, std::byte* const* out) const override {
    constexpr std::size_t few = 8;
    if (inputs_.size() <= few && specs_.size() <= few) {
      std::array<Tensor, few> tensors, results;
      std::array<const Tensor*, few> args;
      return run(in, out, std::span(tensors), std::span(args), std::span(results));
    }
    CachedVector<Tensor> tensors(inputs_.size()), results(specs_.size());
    CachedVector<const Tensor*> args(inputs_.size());
    run(in, out, std::span(tensors), std::span(args), std::span(results));
  }

 private:
  void run(const std::byte* const* in, std::byte* const* out, std::span<Tensor> tensors,
           std::span<const Tensor*> args, std::span<Tensor> results) const {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      tensors[i] = Tensor::borrowed(const_cast<std::byte*>(in[i]), inputs_[i]);
      args[i] = &tensors[i];
    }
    results = results.first(specs_.size());
    if (!op_.allocates())
      for (std::size_t o = 0; o < specs_.size(); ++o)
        results[o] = Tensor::borrowed(out[o], specs_[o]);
    op_.forward(Args(std::span<const Tensor* const>(args.first(inputs_.size()))), results);
    if (!op_.allocates()) return;
    for (std::size_t o = 0; o < specs_.size(); ++o)
      std::memcpy(out[o], results[o].bytes(), bytes_of(results[o]));
  }

  using Specs = CachedVector<Spec>;
  const Op& op_;
  Specs inputs_, specs_;
};

}  // namespace

const Kernel* bind_forward(const Op& op, Args in, Arena& arena) {
  return arena.emplace<ForwardKernel>(op, in);
}

const Kernel* Op::bind(Args in, std::span<const bool>, Arena& arena) const {
  return bind_forward(*this, in, arena);
}

}  // namespace unroll
