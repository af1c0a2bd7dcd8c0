#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <new>
#include <span>
#include <utility>

namespace unroll {

class Arena;
class Kernel;

/// The arguments of an op. A span of pointers, so that passing them costs no reference counts.
class Args {
 public:
  Args() = default;
  Args(std::span<const Tensor* const> tensors) : tensors_(tensors) {}  // NOLINT: meant to convert
  const Tensor& operator[](std::size_t i) const { return *tensors_[i]; }
  std::size_t size() const { return tensors_.size(); }

 private:
  std::span<const Tensor* const> tensors_;
};

/// Where a vjp puts its results: tensors of the walk, one per input.
class Results {
 public:
  explicit Results(std::span<Tensor*> places) : places_(places) {}
  Tensor& operator[](std::size_t i) const { return *places_[i]; }
  std::size_t size() const { return places_.size(); }

 private:
  friend struct Vjp;
  std::span<Tensor*> places_;
};

/// What a vjp gets and gives: see Op::vjp.
struct Vjp {
  Args inputs;   ///< those not kept are abstract: shape and dtype without data
  Args outputs;  ///< likewise
  Args grads;    ///< d loss / d output; undefined where no gradient reached that output
  std::span<Tensor*> own_grads;  ///< the same tensors, which are the walk's: see pass_on()
  std::span<const bool> needed;  ///< per input: does anybody want its gradient?
  Results result;                ///< per input: d loss / d input; may stay undefined for zero
  /// What was kept for this vjp has no reader behind it: outputs that only the op itself knows, and
  /// that are unique(), may be overwritten.
  bool last = false;

  /// The gradient of output i, zeros where none reached it.
  Tensor grad(std::size_t i) const {
    return grads[i].defined() ? grads[i] : Tensor::zeros(outputs[i].shape(), outputs[i].dtype());
  }
  /// The gradient of output `from` becomes the result for input `to`, to be changed by an op that
  /// writes over its operand (see Op::compute) where can_overwrite() allows it. This vjp was the
  /// last to read that gradient: grads[from] is undefined from here on.
  Tensor& pass_on(std::size_t from, std::size_t to) {
    std::swap(own_grads[from], result.places_[to]);
    return result[to];
  }
};

/// What an op does when several calls are put together along the leading axis. This is what lets
/// scan() take an op out of its loop over time.
enum class Rows : std::uint8_t {
  none,  ///< cannot be put together
  map,   ///< op(concat(a, b)) = concat(op(a), op(b)): it treats each row by itself
  sum,   ///< op(concat(a, b)) = op(a) + op(b): it sums over the rows
};

/// Which inputs and outputs a vjp reads, as bit masks; the rest is freed early.
struct Keep {
  std::uint32_t inputs = ~0u;
  std::uint32_t outputs = 0;
};

/// One record per op: name, shape rule, kernel, vector-Jacobian product, and what these need.
/// Derive from OpRecord<Self>, keep attributes as members, and call it with apply().
class Op {
 public:
  virtual const char* name() const = 0;
  virtual int outputs() const { return 1; }

  /// The shape rule: writes the spec of each output, throws ShapeError for inputs that do not fit.
  virtual void infer(Args in, std::span<Spec> out) const = 0;

  /// The kernel: fills `out`, which has the inferred specs and memory of its own. Where
  /// `allocates()`, it assigns the outputs instead (views, compositions).
  virtual void forward(Args in, std::span<Tensor> out) const = 0;
  virtual bool allocates() const { return false; }
  /// What apply() calls: the shape rule, memory for the outputs, forward(). An op whose calls are
  /// often tiny may know a shorter way to the same; the tape is current there. In a dry run nothing
  /// is computed. An output that has memory keeps it where it fits and nobody else holds it: where
  /// forward() may write over what it reads, one tensor can be operand and result.
  virtual void compute(Args in, std::span<Tensor> out) const;
  /// Bytes that forward() allocates for itself and frees again; a dry run counts them. Of an op
  /// that `allocates()`, a dry run calls forward() instead, on tensors without data.
  virtual std::size_t workspace(Args in) const {
    (void)in;
    return 0;
  }

  /// Makes repeated calls ready, whose inputs are like `in`; those `fixed` keep their data from
  /// call to call, the others may be abstract. Default: a kernel that calls forward().
  virtual const Kernel* bind(Args in, std::span<const bool> fixed, Arena& arena) const;
  /// Bit i: this output may be written over input i while it is computed.
  virtual std::uint32_t in_place(Args in, std::size_t output) const {
    (void)in, (void)output;
    return 0;
  }

  /// The vector-Jacobian product, written with ops. Where it is differentiable again, gradients
  /// of gradients work. Default: throws Error, "has no gradient".
  virtual void vjp(Vjp& v) const;
  virtual Keep keep() const { return {}; }
  virtual bool differentiable() const { return true; }

  /// `stacked[i]`: input i is several calls' inputs, concatenated along the leading axis.
  virtual Rows rows(Args in, std::span<const bool> stacked) const {
    (void)in, (void)stacked;
    return Rows::none;
  }
  /// op(a + b) = op(a) + op(b), taken over all inputs together: it may run behind a sum over steps.
  virtual bool linear() const { return false; }
  /// It draws numbers (Generator::draw()), so that two runs of one record give different results.
  virtual bool random() const { return false; }

  virtual const Op* clone(Arena& arena) const = 0;

 protected:
  // Not virtual: whoever holds a record knows its type, and one without resources needs no
  // destruction at all.
  ~Op() = default;
};

/// Gives a record its clone().
template <class Self>
class OpRecord : public Op {
 public:
  const Op* clone(Arena& arena) const override;

 protected:
  ~OpRecord() = default;
};

}  // namespace unroll
