#include <fmt/format.h>
#include <unroll/ops/index.h>
#include <unroll/ops/layout.h>
#include <unroll/ops/lengths.h>

#include <algorithm>

namespace unroll {

Tensor length_mask(const char* op, const Tensor& lengths, std::int64_t steps, std::int64_t batch,
                   DType dtype, const Where& where) {
  if (lengths.rank() != 1 || lengths.size(0) != batch)
    fail(op, fmt::format("lengths {} for a batch of {}", to_string(lengths), batch), where,
         "Give one length for every row of the batch");
  const Tensor counts = lengths.to(DType::i64);
  Tensor mask = Tensor::empty({steps, batch, 1}, dtype);
  if (mask.is_abstract()) return mask;
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t length = counts.data<std::int64_t>()[b];
    if (length < 0 || length > steps)
      fail(op, fmt::format("length {} of row {} is not within 0 to {}", length, b, steps), where);
    with_float(op, dtype, [&](auto zero) {
      using T = decltype(zero);
      for (std::int64_t t = 0; t < steps; ++t)
        mask.mutable_ptr<T>()[t * batch + b] = t < length ? T(1) : T(0);
    });
  }
  return mask;
}

Tensor last_steps(const Tensor& past, const Tensor& x, const Tensor& lengths, Where where) {
  const std::int64_t steps = x.size(0), batch = x.size(1), width = x.size(2), kept = past.size(1);
  if (!lengths.defined()) {
    if (steps >= kept) return transpose(slice(x, 0, steps - kept, steps, 1, where), 0, 1, where);
    return concat({slice(past, 1, steps, to_end, 1, where), transpose(x, 0, 1, where)}, 1, where);
  }
  const Tensor all = concat({transpose(past, 0, 1, where), x}, 0, where);
  const Tensor counts = lengths.to(DType::i64);
  Tensor index = Tensor::empty({kept, batch, width}, DType::i64);
  if (!index.is_abstract())
    for (std::int64_t p = 0; p < kept; ++p)
      for (std::int64_t b = 0; b < batch; ++b)
        std::fill_n(index.mutable_ptr<std::int64_t>() + (p * batch + b) * width, width,
                    counts.data<std::int64_t>()[b] + p);
  return transpose(gather(all, 0, index, where), 0, 1, where);
}

}  // namespace unroll
