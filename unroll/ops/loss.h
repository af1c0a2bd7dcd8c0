#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>

namespace unroll {

/// What becomes of the losses of single rows or elements.
enum class Reduction : std::uint8_t { mean, sum, none };

struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;  ///< rows with this target do not count
  double label_smoothing = 0;        ///< this share of the target goes to all classes evenly
  Reduction reduction = Reduction::mean;
};

/// -log softmax(logits [..., C]) at targets [...] (i64 or i32), in one pass. The mean is over the
/// rows that count; where none does, the loss and its gradients are 0 (PyTorch gives NaN).
/// Throws ShapeError where the shapes do not fit, and naming a target that is not in 0..C-1.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets,
                     const CrossEntropyOptions& options = {}, Where where = Where::current());

struct LossOptions {
  Reduction reduction = Reduction::mean;
};

/// (x - y)^2
Tensor mse_loss(const Tensor& x, const Tensor& y, const LossOptions& options = {},
                Where where = Where::current());
/// |x - y|
Tensor l1_loss(const Tensor& x, const Tensor& y, const LossOptions& options = {},
               Where where = Where::current());

struct HuberOptions {
  double delta = 1;
  Reduction reduction = Reduction::mean;
};

/// d^2 / 2 for d = |x - y| up to delta, delta (d - delta / 2) beyond (Huber, 1964).
Tensor huber_loss(const Tensor& x, const Tensor& y, const HuberOptions& options = {},
                  Where where = Where::current());

struct BinaryCrossEntropyOptions {
  Tensor pos_weight = {};  ///< multiplies the loss of y = 1; broadcast to x
  Reduction reduction = Reduction::mean;
};

/// -y log sigmoid(x) - (1 - y) log(1 - sigmoid(x)), without overflow, for y from 0 to 1.
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& y,
                                        const BinaryCrossEntropyOptions& options = {},
                                        Where where = Where::current());

}  // namespace unroll
