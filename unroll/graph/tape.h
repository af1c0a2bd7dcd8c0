#pragma once

#include <unroll/graph/arena.h>
#include <unroll/graph/op.h>
#include <unroll/graph/parameter.h>

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

namespace unroll {

/// One recorded call of an op, or a leaf (op == nullptr).
struct Node {
  static constexpr std::uint32_t constant = ~0u;

  const Op* op = nullptr;
  Tensor* inputs = nullptr;        ///< those that op->keep() names; the rest abstract
  Tensor* outputs = nullptr;       ///< likewise
  std::uint32_t* edges = nullptr;  ///< per input: the value id on this tape, or `constant`
  const std::shared_ptr<ParameterState>* parameter = nullptr;  ///< of a parameter's leaf
  const Tensor* foreign = nullptr;  ///< of a traced leaf: the tensor of another tape behind it
  std::uint32_t input_count = 0;
  std::uint32_t output_count = 0;
  std::uint32_t first_value = 0;  ///< value ids of the outputs follow each other
  bool needs_grad = false;
  bool consumed = false;
  Where where;
};

/// Records what runs while it lives, in order, and walks it backwards. The innermost live tape of
/// a thread is current; tapes of one thread end in the reverse order of their beginning.
class Tape {
 public:
  struct Options {
    bool check_numbers = false;  ///< name the first op whose result is not finite
    bool trace = false;          ///< record every op, not only those on the way to a gradient
  };
  /// A position: what was recorded before it can be kept while the rest is undone.
  struct Mark {
    std::size_t nodes = 0, values = 0, leaves = 0;
    Arena::Mark arena;
  };
  struct BackwardOptions {
    Mark down_to = {};    ///< stop there; parameters get what reached them
    bool retain = false;  ///< keep what backward needs, for another walk
  };
  struct GradientOptions {
    bool create_graph = false;           ///< record the walk: gradients of gradients
    std::span<const Tensor> seeds = {};  ///< d L / d output; default ones
    bool zeros = true;                   ///< zeros, not undefined, where nothing depends on w
  };

  Tape() : Tape(Options{}) {}
  explicit Tape(Options options);
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// The tape that records on this thread, or nullptr.
  static Tape* current();

  /// A leaf: the same value, for which gradient() can be asked.
  Tensor watch(const Tensor& value) { return input(value, true); }
  /// A leaf; a traced function's inputs that want no gradient are such.
  Tensor input(const Tensor& value, bool needs_grad);

  /// Adds d loss / d parameter to the grad of every parameter that `loss` [one element] depends
  /// on. Throws Error, and leaves all parameters as they were, where `loss` was not recorded here
  /// or the tape has been walked already.
  void backward(const Tensor& loss) { backward(loss, BackwardOptions{}); }
  void backward(const Tensor& loss, const BackwardOptions& options);

  /// d loss / d w for recorded values or watched inputs; parameters are not touched, the tape can
  /// be walked again. Zeros for a value that does not influence the loss.
  std::vector<Tensor> gradient(const Tensor& loss, std::span<const Tensor> wrt) {
    return gradient(std::span(&loss, 1), wrt, GradientOptions{});
  }
  std::vector<Tensor> gradient(const Tensor& loss, std::initializer_list<Tensor> wrt) {
    return gradient(std::span(&loss, 1), std::span(wrt.begin(), wrt.size()), GradientOptions{});
  }
  /// The same for several outputs, each with its seed.
  std::vector<Tensor> gradient(std::span<const Tensor> outputs, std::span<const Tensor> wrt,
                               const GradientOptions& options);

  Mark mark() const { return {nodes_.size(), producer_.size(), leaves_.size(), arena_.mark()}; }
  /// Forgets what was recorded since `mark`.
  void rewind(const Mark& mark);
  /// Records no longer; what was recorded stays. Scope end does this too.
  void stop();

  std::size_t size() const { return nodes_.size(); }
  const Node& node(std::size_t i) const { return nodes_[i]; }
  /// The node whose output has this value id.
  std::uint32_t producer(std::uint32_t value) const { return producer_[value]; }
  std::size_t value_count() const { return producer_.size(); }
  /// Is this tensor a value of this tape?
  bool owns(const Tensor& tensor) const {
    return tensor.ref().tape == id_ && tensor.ref().value < producer_.size();
  }

  /// Does a gradient flow to this tensor on this tape?
  bool needs_grad(const Tensor& tensor) const {
    return owns(tensor) && nodes_[producer_[tensor.ref().value]].needs_grad;
  }

  /// Used by apply() and by Parameter.
  void record(const Op& op, Args inputs, std::span<Tensor> outputs, const Where& where);
  Tensor leaf(const std::shared_ptr<ParameterState>& parameter);
  bool checks_numbers() const { return options_.check_numbers; }

 private:
  friend class NoGrad;
  using Grads = std::vector<Tensor, CachedAllocator<Tensor>>;

  Node& add_node(std::size_t inputs, std::size_t outputs);
  std::uint32_t foreign_leaf(const Tensor& value);
  std::uint32_t value_of(const Tensor& tensor, const char* what) const;
  /// How many values there are up to this one's node, which may have outputs behind it.
  std::size_t values_up_to(std::uint32_t value) const {
    const Node& node = nodes_[producer_[value]];
    return node.first_value + node.output_count;
  }
  void step_back(std::size_t n, Grads& grads);
  void release(Node& node);

  Options options_;
  std::uint64_t id_;
  Tape* previous_;
  bool live_ = true;
  Arena arena_;
  std::vector<Node, CachedAllocator<Node>> nodes_;
  std::vector<std::uint32_t, CachedAllocator<std::uint32_t>> producer_;
  std::vector<std::uint32_t, CachedAllocator<std::uint32_t>> leaves_;  // nodes of parameters
  std::unordered_map<const ParameterState*, std::uint32_t, std::hash<const ParameterState*>,
                     std::equal_to<>,
                     CachedAllocator<std::pair<const ParameterState* const, std::uint32_t>>>
      leaf_of_;
};

/// While it lives, nothing is recorded on this thread.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Tape* saved_;
};

/// Runs an op: infers, allocates, computes, records. Errors name the op, the shapes and `where`.
void apply(const Op& op, Args inputs, std::span<Tensor> outputs, const Where& where);

/// The same for ops with one output.
inline Tensor apply(const Op& op, std::initializer_list<const Tensor*> inputs, const Where& where) {
  Tensor result;
  apply(op, Args({inputs.begin(), inputs.size()}), std::span(&result, 1), where);
  return result;
}

template <class Self>
const Op* OpRecord<Self>::clone(Arena& arena) const {
  return arena.make<Self>(static_cast<const Self&>(*this));
}

}  // namespace unroll
