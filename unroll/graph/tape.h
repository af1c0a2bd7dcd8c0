#pragma once

#include <unroll/graph/arena.h>
#include <unroll/graph/chunked.h>
#include <unroll/graph/draw.h>
#include <unroll/graph/op.h>
#include <unroll/graph/parameter.h>
#include <unroll/graph/threads.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace unroll {

class Tape;
namespace detail {
inline constinit thread_local Tape* current_tape = nullptr;
}

/// One recorded call of an op, or a leaf (op == nullptr), which has no inputs and one output.
struct Node {
  const Op* op = nullptr;
  const std::uint32_t* inputs = nullptr;   ///< ids of the values it reads
  const Tensor* const* tensors = nullptr;  ///< of these values, then of those that it gives
  const std::shared_ptr<ParameterState>* parameter = nullptr;  ///< of a parameter's leaf
  const Tensor* foreign = nullptr;  ///< of a traced leaf: the tensor of another tape behind it
  std::uint32_t input_count = 0;
  std::uint32_t output_count = 0;
  std::uint32_t first_output = 0;  ///< ids of the outputs follow each other
  bool needs_grad = false;
  bool consumed = false;
  Where where = {};

  /// Does a gradient flow to the values that it reads?
  const bool* needed() const { return reinterpret_cast<const bool*>(inputs + input_count); }

  /// Room for what it says of its operands, in one piece.
  struct Operands {
    const Tensor** tensors;
    std::uint32_t* inputs;
    bool* needed;

    Operands(Arena& arena, std::size_t in, std::size_t out)
        : tensors(static_cast<const Tensor**>(
              arena.room((in + out) * sizeof(void*) + in * (sizeof(std::uint32_t) + 1)))),
          inputs(reinterpret_cast<std::uint32_t*>(tensors + in + out)),
          needed(reinterpret_cast<bool*>(inputs + in)) {}
  };
};

/// What a node gave, or a constant that one read.
struct Value {
  static constexpr std::uint32_t constant = ~0u;

  std::uint32_t producer = constant;
  bool needs_grad = false;
  Tensor tensor;  ///< abstract where no vjp reads it

  /// `kept`: some vjp reads the tensor's data.
  Value(const Tensor& of, bool kept, std::uint32_t node = constant, const TapeRef& ref = {},
        bool needs = false)
      : producer(node),
        needs_grad(needs),
        tensor(kept ? Tensor(of) : Tensor::abstract(of.shape(), of.dtype())) {
    tensor.set_ref(ref);
  }
};

/// Records what runs while it lives, in order, and walks it backwards. The innermost live tape of
/// a thread is current; tapes of one thread end in the reverse order of their beginning. While it
/// lives its thread flushes denormals to zero, as every op does for itself without a tape.
class Tape {
 public:
  struct Options {
    bool check_numbers = false;  ///< name the first op whose result is not finite
    bool trace = false;          ///< record every op, not only those on the way to a gradient
    /// Of products of f32 tensors: f32, or bf16, which rounds their operands and adds and returns
    /// f32. Throws Error where the build or the processor has no bf16. What is traced (scan, a
    /// Program) takes it from the tape around it.
    DType precision = DType::f32;
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
  static Tape* current() { return detail::current_tape; }
  /// Of all tapes there ever were this one alone has it; never 0.
  std::uint64_t id() const { return id_; }

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

  Mark mark() const { return {nodes_.size(), values_.size(), leaves_.size(), arena_.mark()}; }
  /// Forgets what was recorded since `mark`.
  void rewind(const Mark& mark);
  /// Records no longer; what was recorded stays. Scope end does this too.
  void stop();

  std::size_t size() const { return nodes_.size(); }
  const Node& node(std::size_t i) const { return nodes_[i]; }
  std::size_t value_count() const { return values_.size(); }
  const Value& value(std::uint32_t id) const { return values_[id]; }
  /// Is this tensor a value of this tape?
  bool owns(const Tensor& tensor) const { return find(tensor) != nullptr; }
  /// Does a gradient flow to this tensor on this tape?
  bool needs_grad(const Tensor& tensor) const {
    const Value* const value = find(tensor);
    return value != nullptr && value->needs_grad;
  }

  /// Used by apply() and by Parameter.
  void record(const Op& op, Args inputs, std::span<Tensor> outputs, const Where& where);
  Tensor leaf(const std::shared_ptr<ParameterState>& parameter);
  bool checks_numbers() const { return options_.check_numbers; }
  DType precision() const { return options_.precision; }
  /// A program is made of it: what its walk back records is not differentiated again, so that a
  /// vjp need not be.
  bool traces() const { return options_.trace; }
  /// Remembers numbers that a traced op draws, for redraw(); used by Generator::draw().
  const RandomPosition* redraw(std::shared_ptr<RandomPosition> generator, std::uint64_t count);
  /// Draws anew for every traced op that does.
  void redraw() {
    for (const auto& one : redraws_) one->run();
  }
  /// Puts the generators back to where they were before the last redraw().
  void undo_redraw() {
    for (std::size_t i = redraws_.size(); i-- > 0;) redraws_[i]->undo();
  }
  bool draws() const { return !redraws_.empty(); }

 private:
  friend class NoGrad;
  struct Walk;

  /// The value that a tensor is, or nullptr for one that is none of this tape's.
  const Value* find(const Tensor& tensor) const {
    const TapeRef& ref = tensor.ref();
    if (ref.tape() != id_ || ref.value() >= values_.size()) return nullptr;
    const Value* const value = &values_[ref.value()];
    return value->tensor.ref().serial() == ref.serial() ? value : nullptr;
  }
  std::uint32_t new_input(const Tensor& tensor, bool kept);
  // What f records, or nothing of it where it throws (memory ends).
  template <class F>
  auto all_or_nothing(const F& f) {
    const std::size_t nodes = nodes_.size(), values = values_.size();
    try {
      return f();
    } catch (...) {
      nodes_.resize(nodes);
      values_.resize(values);
      throw;
    }
  }
  std::uint32_t foreign_leaf(const Tensor& value);
  std::uint32_t value_of(const Tensor& tensor, const char* what) const;
  /// How many values there are up to this one's node, which may have outputs behind it.
  std::size_t values_up_to(std::uint32_t value) const {
    const Node& node = nodes_[values_[value].producer];
    return node.first_output + node.output_count;
  }
  void step_back(Node& node, Walk& walk, bool last);
  void take_gradients(const Node& node, const Vjp& v, Walk& walk);
  void release(Node& node);

  Options options_;
  std::uint64_t id_;
  std::uint32_t next_serial_ = 1;
  Tape* previous_;
  std::optional<detail::FlushDenormals> flush_;  // while it records
  Arena arena_;
  Chunked<Node> nodes_;
  Chunked<Value> values_;
  CachedVector<std::uint32_t> leaves_;  // nodes of parameters
  std::vector<std::unique_ptr<Redraw>> redraws_;
  // The latest leaf of a parameter, and the version of its value there.
  struct Leaf {
    std::uint32_t node;
    std::uint64_t version;
  };
  std::unordered_map<const ParameterState*, Leaf, std::hash<const ParameterState*>,
                     std::equal_to<const ParameterState*>,
                     CachedAllocator<std::pair<const ParameterState* const, Leaf>>>
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

/// May an op write over the data of `tensor`? Nobody else holds them, and nothing is recorded, so
/// that no tape's value is meant to have them.
inline bool can_overwrite(const Tensor& tensor) {
  return tensor.unique() && Tape::current() == nullptr;
}

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
