#pragma once

#include <unroll/train/seq2seq.h>

#include <cstddef>
#include <initializer_list>

namespace unroll::detail {

/// Throws ShapeError where a source is not [S, B] with a step and a sequence at the least.
void check_source(const Tensor& source);

/// Throws ShapeError where tokens are not those of a batch: [B] of a step, [T, B] of a decoding,
/// with T of 1 or more.
void check_tokens(const char* op, const Tensor& tokens, int rank, std::int64_t batch);

/// Throws Error where its tensors hold no numbers, as those that a trace left.
void check_data(const char* op, const Decoding& at);
/// The same where ops compute: while nothing is recorded, nor counted in a dry run.
void check_data_to_compute(const char* op, const Decoding& at, const Tensor& tokens);

/// A size that DecodingCheck takes as it is.
inline constexpr std::int64_t any_size = -1;

/// A Decoding against the model that is to go on from it. Every function throws Error (ShapeError
/// where it is a shape) that says which part of it is another model's.
class DecodingCheck {
 public:
  /// Checks whose it is, and that it has the model's number of memory tensors.
  DecodingCheck(const char* op, const Decoding& at, ModelKind kind, std::size_t memories);
  void state_count(std::initializer_list<std::size_t> allowed) const;
  /// Tensor `index` of the memory or the state.
  void memory(std::size_t index, std::initializer_list<std::int64_t> sizes, DType dtype) const;
  void state(std::size_t index, std::initializer_list<std::int64_t> sizes, DType dtype) const;
  void lengths(std::int64_t batch) const;

 private:
  void part(const char* what, const std::vector<Tensor>& all, std::size_t index,
            std::initializer_list<std::int64_t> sizes, DType dtype) const;

  const char* op_;
  const Decoding& at_;
  ModelKind kind_;
};

}  // namespace unroll::detail
