#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/philox.h>
#include <unroll/ops/samples.h>

#include <algorithm>
#include <cmath>

namespace unroll {
namespace {

// Linear in x, with the same mask forward and back: the record is its own vjp.
struct Dropout : OpRecord<Dropout> {
  Draw drawn;
  double p;
  Dropout(const Draw& draw, double probability) : drawn(draw), p(probability) {}

  const char* name() const override { return "dropout"; }
  bool random() const override { return true; }
  void infer(Args in, std::span<Spec> out) const override { out[0] = in[0].spec(); }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      run(in[0].ptr<T>(), in[0].numel(), out[0].mutable_ptr<T>());
    });
  }
  template <class T>
  void run(const T* x, std::int64_t n, T* y) const {
    static constexpr std::int64_t batch = 256;
    parallel_for(
        n, 16 * batch, 8.0 * static_cast<double>(n),
        [this, at = drawn.position(), x, y](std::int64_t begin, std::int64_t end) {
          const auto threshold = static_cast<std::uint32_t>(p * 0x1p32);
          const T scale = static_cast<T>(1 / (1 - p));
          std::uint32_t bits[batch];
          for (std::int64_t i = begin; i < end; i += batch) {
            simd::philox<batch / 4>(at.seed, (at.next + static_cast<std::uint64_t>(i)) / 4, bits);
            const std::int64_t count = std::min(batch, end - i);
            for (std::int64_t k = 0; k < count; ++k) {
              const T scaled = x[i + k] * scale;  // read in any case: a loop without branches
              y[i + k] = bits[k] < threshold ? T(0) : scaled;
            }
          }
        });
  }
  Keep keep() const override { return {.inputs = 0}; }
  void vjp(Vjp& v) const override { v.result[0] = apply(*this, {&v.grads[0]}, Where::current()); }
};

}  // namespace

Tensor dropout(const Tensor& x, double p, Generator& generator, bool training, Where where) {
  if (!(p >= 0 && p < 1))
    fail("dropout", fmt::format("p {} is not in [0, 1)", p), where,
         "p is the probability of dropping an element");
  if (!training || p == 0) return x;
  const auto count = static_cast<std::uint64_t>(x.numel());
  return apply(Dropout(generator.draw(count), p), {&x}, where);
}

namespace {

using In = std::span<const Tensor>;

Tensor dropped(const Tensor& x, double p) {
  Generator g(11);
  return dropout(x, p, g);
}

const RegisterOp row{{
    .name = "dropout",
    .signature = "dropout(x, p, generator, training = true)",
    .summary = "Elements set to 0 at random, the others scaled up",
    .samples = {normal_sample({{3, 19}}, [](In in) { return dropped(in[0], 0.5); }),
                normal_sample({{2, 3, 4}}, [](In in) { return dropped(in[0], 0.2); }),
                normal_sample({{2, 2, 2, 2}},
                              [](In in) {
                                Generator g;
                                return dropout(in[0], 0.2, g, false);
                              })},
}};

}  // namespace
}  // namespace unroll
