#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unroll/graph/tape.h>
#include <unroll/train/decoding_check.h>

#include <algorithm>

namespace unroll::detail {
namespace {

constexpr const char* advice =
    "A Decoding is what this model's encode() gave, moved on by its step() and decode()";

bool fits(const Shape& shape, std::initializer_list<std::int64_t> sizes) {
  return std::equal(
      shape.begin(), shape.end(), sizes.begin(), sizes.end(),
      [](std::int64_t got, std::int64_t wanted) { return wanted == any_size || got == wanted; });
}

std::string listed(std::initializer_list<std::int64_t> sizes) {
  std::string text;
  for (const std::int64_t size : sizes)
    text += (text.empty() ? "" : ", ") + (size == any_size ? "any" : std::to_string(size));
  return "[" + text + "]";
}

std::string said(const Tensor& x) { return x.defined() ? to_string(x) : "undefined"; }

template <class F>
void for_each_tensor(const Decoding& at, F f) {
  for (const Tensor& one : at.memory) f("memory", one);
  for (const Tensor& one : at.state) f("state", one);
  if (at.lengths.defined()) f("lengths", at.lengths);
}

void refuse_abstract(const char* op, const char* what, const Tensor& one) {
  fail(op, fmt::format("the {} of the Decoding has no data: {}", what, said(one)),
       "It was made while a function was traced, and ends with the trace");
}

}  // namespace

void check_source(const Tensor& source) {
  if (source.defined() && source.rank() == 2 && source.size(0) > 0 && source.size(1) > 0) return;
  fail_shape("encode",
             fmt::format("the source is {}, expected [S, B] of a symbol and a sequence or more",
                         said(source)),
             source.defined() && source.rank() == 1
                 ? "Give a single one a batch axis with unsqueeze()"
                 : "");
}

void check_tokens(const char* op, const Tensor& tokens, int rank, std::int64_t batch) {
  const bool good = tokens.defined() && tokens.rank() == rank && tokens.size(rank - 1) == batch &&
                    tokens.size(0) > 0;
  if (good) return;
  fail_shape(op,
             fmt::format("the tokens are {}, expected {}{}] for a Decoding of {} sequences",
                         said(tokens), rank == 2 ? "[T, " : "[", batch, batch),
             rank == 2 ? "step() takes a single step's [B]" : "decode() takes [T, B]");
}

void check_data(const char* op, const Decoding& at) {
  for_each_tensor(at, [&](const char* what, const Tensor& one) {
    if (one.is_abstract()) refuse_abstract(op, what, one);
  });
}

void check_data_to_compute(const char* op, const Decoding& at, const Tensor& tokens) {
  if (Tape::current() != nullptr || tokens.is_abstract()) return;
  for_each_tensor(at, [&](const char* what, const Tensor& one) {
    if (one.is_abstract() && !one.is_phantom()) refuse_abstract(op, what, one);
  });
}

DecodingCheck::DecodingCheck(const char* op, const Decoding& at, ModelKind kind,
                             std::size_t memories)
    : op_(op), at_(at), kind_(kind) {
  if (!at.kind) fail(op, "the Decoding is of no model", advice);
  if (*at.kind != kind)
    fail(op,
         fmt::format("the Decoding is of a model of kind {}, this one is of kind {}",
                     to_string(*at.kind), to_string(kind)),
         advice);
  if (at.memory.size() != memories)
    fail(op,
         fmt::format("the Decoding has {} memory tensors, this model's have {}", at.memory.size(),
                     memories),
         advice);
}

void DecodingCheck::state_count(std::initializer_list<std::size_t> allowed) const {
  if (std::find(allowed.begin(), allowed.end(), at_.state.size()) != allowed.end()) return;
  fail(op_,
       fmt::format("the Decoding has {} state tensors, this model's have {}", at_.state.size(),
                   fmt::join(allowed, " or ")),
       advice);
}

void DecodingCheck::part(const char* what, const std::vector<Tensor>& all, std::size_t index,
                         std::initializer_list<std::int64_t> sizes, DType dtype) const {
  const Tensor& one = all[index];
  if (one.defined() && one.dtype() == dtype && fits(one.shape(), sizes)) return;
  fail_shape(op_,
             fmt::format("{} {} of the Decoding is {}, expected {} {} of this {}", what, index,
                         said(one), to_string(dtype), listed(sizes), to_string(kind_)),
             advice);
}

void DecodingCheck::memory(std::size_t index, std::initializer_list<std::int64_t> sizes,
                           DType dtype) const {
  part("memory", at_.memory, index, sizes, dtype);
}

void DecodingCheck::state(std::size_t index, std::initializer_list<std::int64_t> sizes,
                          DType dtype) const {
  part("state", at_.state, index, sizes, dtype);
}

void DecodingCheck::lengths(std::int64_t batch) const {
  if (!at_.lengths.defined() || (at_.lengths.rank() == 1 && at_.lengths.size(0) == batch)) return;
  fail_shape(
      op_,
      fmt::format("the lengths of the Decoding are {}, for {} sequences", said(at_.lengths), batch),
      advice);
}

}  // namespace unroll::detail
