#include <unroll/graph/kernel.h>

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
    CachedVector<Tensor> tensors;
    CachedVector<const Tensor*> args;
    tensors.reserve(inputs_.size());
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      tensors.push_back(Tensor::borrowed(const_cast<std::byte*>(in[i]), inputs_[i]));
      args.push_back(&tensors[i]);
    }
    CachedVector<Tensor> results(specs_.size());
    if (!op_.allocates())
      for (std::size_t o = 0; o < specs_.size(); ++o)
        results[o] = Tensor::borrowed(out[o], specs_[o]);
    op_.forward(Args(args), results);
    if (!op_.allocates()) return;
    for (std::size_t o = 0; o < specs_.size(); ++o)
      std::memcpy(out[o], results[o].bytes(),
                  static_cast<std::size_t>(results[o].numel() * size_of(results[o].dtype())));
  }

 private:
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
