#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/ops/check.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>

#include <algorithm>

namespace unroll {

void check_lengths(const char* op, const Tensor& lengths, std::int64_t steps, std::int64_t batch,
                   const Where& where) {
  if (lengths.rank() != 1 || lengths.size(0) != batch)
    fail_shape_at(op, fmt::format("lengths {} for a batch of {}", to_string(lengths), batch), where,
                  "Give one length for every row of the batch");
  if (lengths.dtype() != DType::i64 && lengths.dtype() != DType::i32)
    fail(op, fmt::format("lengths {}", to_string(lengths)), where, "They are i64 or i32");
  if (lengths.is_abstract()) return;
  with_index(op, lengths.dtype(), [&](auto zero) {
    const auto values = lengths.data<decltype(zero)>();
    for (std::size_t b = 0; b < values.size(); ++b)
      if (values[b] < 0 || values[b] > steps)
        fail_shape_at(op,
                      fmt::format("length {} of row {} is not within 0 to {}", values[b], b, steps),
                      where);
  });
}

namespace {

// An op, so that a program makes the mask anew from each batch's lengths.
struct LengthMask : OpRecord<LengthMask> {
  std::int64_t steps;
  DType dtype;
  LengthMask(std::int64_t t, DType type) : steps(t), dtype(type) {}

  const char* name() const override { return "length_mask"; }
  bool differentiable() const override { return false; }
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {{steps, in[0].size(0), 1}, dtype};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    const std::int64_t batch = in[0].size(0);
    check_lengths(name(), in[0], steps, batch, Where());
    with_index(name(), in[0].dtype(), [&](auto index) {
      with_float(name(), dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto* lengths = in[0].ptr<decltype(index)>();
        T* const mask = out[0].mutable_ptr<T>();
        for (std::int64_t t = 0; t < steps; ++t)
          for (std::int64_t b = 0; b < batch; ++b)
            mask[t * batch + b] = t < lengths[b] ? T(1) : T(0);
      });
    });
  }
};

// The rows of [P + T, B, D] that are the last P of each sequence, for gather().
struct LastSteps : OpRecord<LastSteps> {
  std::int64_t kept, width;
  LastSteps(std::int64_t p, std::int64_t d) : kept(p), width(d) {}

  const char* name() const override { return "last_steps"; }
  bool differentiable() const override { return false; }
  void infer(Args in, std::span<Spec> out) const override {
    out[0] = {{kept, in[0].size(0), width}, DType::i64};
  }
  void forward(Args in, std::span<Tensor> out) const override {
    const std::int64_t batch = in[0].size(0);
    with_index(name(), in[0].dtype(), [&](auto index) {
      const auto* lengths = in[0].ptr<decltype(index)>();
      auto* to = out[0].mutable_ptr<std::int64_t>();
      for (std::int64_t p = 0; p < kept; ++p)
        for (std::int64_t b = 0; b < batch; ++b, to += width)
          std::fill_n(to, width, static_cast<std::int64_t>(lengths[b]) + p);
    });
  }
};

}  // namespace

Tensor length_mask(const char* op, const Tensor& lengths, std::int64_t steps, std::int64_t batch,
                   DType dtype, const Where& where) {
  // Here, where the caller is known; a replay has the op's own check.
  check_lengths(op, lengths, steps, batch, where);
  return apply(LengthMask(steps, dtype), {&lengths}, where);
}

Tensor last_steps(const Tensor& past, const Tensor& x, const Tensor& lengths, Where where) {
  const std::int64_t steps = x.size(0), width = x.size(2), kept = past.size(1);
  if (!lengths.defined()) {
    if (steps >= kept) return transpose(slice(x, 0, steps - kept, steps, 1, where), 0, 1, where);
    return concat({slice(past, 1, steps, to_end, 1, where), transpose(x, 0, 1, where)}, 1, where);
  }
  const Tensor all = concat({transpose(past, 0, 1, where), x}, 0, where);
  const Tensor index = apply(LastSteps(kept, width), {&lengths}, where);
  return transpose(gather(all, 0, index, where), 0, 1, where);
}

}  // namespace unroll
