#include <fmt/format.h>
#include <unroll/graph/accumulate.h>
#include <unroll/graph/dry_run.h>
#include <unroll/graph/precision.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>

#include <algorithm>
#include <atomic>
#include <cmath>

namespace unroll {
namespace {

thread_local Tape* current_tape = nullptr;

std::uint64_t next_tape_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

bool all_finite(const Tensor& tensor) {
  if (!is_float(tensor.dtype()) || tensor.is_abstract() || !tensor.defined()) return true;
  return with_float("check_numbers", tensor.dtype(), [&](auto zero) {
    for (auto x : tensor.data<decltype(zero)>())
      if (!std::isfinite(x)) return false;
    return true;
  });
}

std::string shapes_of(Args args) {
  std::string text;
  for (std::size_t i = 0; i < args.size(); ++i) text += (i == 0 ? "" : ", ") + to_string(args[i]);
  return text;
}

// What an op gives for shapes alone.
void infer_abstract(const Op& op, Args in, std::span<Tensor> out) {
  std::vector<Spec> specs(out.size());
  op.infer(in, specs);
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = Tensor::abstract(specs[i].shape, specs[i].dtype);
}

void allocate_outputs(const Op& op, Args in, std::span<Tensor> out, std::span<Spec> specs) {
  op.infer(in, specs);
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = Tensor::empty(specs[i].shape, specs[i].dtype);
}

void allocate_outputs(const Op& op, Args in, std::span<Tensor> out) {
  if (out.size() == 1) {
    Spec one;
    allocate_outputs(op, in, out, {&one, 1});
  } else {
    std::vector<Spec> specs(out.size());
    allocate_outputs(op, in, out, specs);
  }
}

// Only shapes are known of an input, so that only shapes can be inferred. In a dry run that is so
// of every tensor: there, the inputs of a trace are those whose memory is not even counted.
bool on_shapes(Args in) {
  if (detail::dry && (current_tape == nullptr || !current_tape->traces())) return false;
  for (std::size_t i = 0; i < in.size(); ++i)
    if (in[i].is_abstract() && !(detail::dry && in[i].is_phantom())) return true;
  return false;
}

// What an op seldom says is out of line: apply() is short where it is called for one number.
[[noreturn, gnu::cold]] void fail_undefined(const Op& op, std::size_t input, const Where& where) {
  fail(op.name(), fmt::format("input {} is an undefined tensor", input), where);
}

[[gnu::noinline]] void check_results(const Op& op, Args in, std::span<const Tensor> out,
                                     const Where& where) {
  for (const Tensor& tensor : out)
    if (!all_finite(tensor))
      fail(op.name(),
           fmt::format("the result {} of {} is not finite", to_string(tensor), shapes_of(in)),
           where);
}

// What a vjp gave for input i. `without_data`: and should have some.
[[gnu::noinline]] void check_gradient(const Node& node, const Tensor& part, const Tensor& input,
                                      std::size_t i, bool without_data) {
  if (part.shape() != input.shape())
    fail(node.op->name(),
         fmt::format("its vjp gives input {} a gradient {} for a value {}", i, to_string(part),
                     to_string(input)),
         node.where);
  if (without_data)
    fail(node.op->name(), "its vjp reads an input or output that keep() does not name");
  if (!all_finite(part))
    fail(node.op->name(),
         fmt::format("the gradient {} of input {} is not finite", to_string(part), i), node.where);
}

// A walk's gradients, none yet, and where memory ends for these an error that names the walk.
CachedVector<Tensor> no_gradients(std::size_t values, std::span<const Tensor> outputs) {
  try {
    return CachedVector<Tensor>(values);
  } catch (const MemoryError& error) {
    std::string shapes;
    for (const Tensor& one : outputs) shapes += (shapes.empty() ? "" : ", ") + to_string(one);
    throw MemoryError(error, "backward", shapes, Where());
  }
}

// The op knows what was wrong, only the call of apply() knows who called.
[[noreturn]] void rethrow_with_place(const ShapeError& error, const Where& where) {
  if (where.line() == 0 || std::string_view(error.what()).find(".cpp:") != std::string::npos)
    throw error;
  const std::string_view path = where.file_name();
  throw ShapeError(fmt::format("{} ({}:{})", error.what(), path.substr(path.find_last_of('/') + 1),
                               where.line()));
}

// Swaps the current tape and swaps it back, whatever happens.
class CurrentTape {
 public:
  explicit CurrentTape(Tape* tape) : saved_(std::exchange(current_tape, tape)) {}
  ~CurrentTape() { current_tape = saved_; }
  CurrentTape(const CurrentTape&) = delete;
  CurrentTape& operator=(const CurrentTape&) = delete;

 private:
  Tape* saved_;
};

}  // namespace

void Op::vjp(Vjp&) const {
  fail(name(), "has no gradient",
       "Compose it from other ops, or give it a vjp (docs/extending.md)");
}

NoGrad::NoGrad() : saved_(std::exchange(current_tape, nullptr)) {}
NoGrad::~NoGrad() { current_tape = saved_; }

void Op::compute(Args in, std::span<Tensor> out) const {
  if (allocates()) return forward(in, out);
  allocate_outputs(*this, in, out);
  if (!detail::dry) [[likely]]
    return forward(in, out);
  if (const auto bytes = static_cast<std::int64_t>(workspace(in)); bytes > 0)
    Tensor::empty({bytes}, DType::u8);
}

void apply(const Op& op, Args in, std::span<Tensor> out, const Where& where) {
  for (std::size_t i = 0; i < in.size(); ++i)
    if (!in[i].defined()) [[unlikely]]
      fail_undefined(op, i, where);
  try {
    if (on_shapes(in)) {
      infer_abstract(op, in, out);
    } else {
      const detail::FlushDenormals flush;
      const CurrentTape unrecorded(nullptr);  // a composition inside an op is not on the tape
      op.compute(in, out);
    }
    if (current_tape == nullptr) return;
    if (current_tape->checks_numbers()) [[unlikely]]
      check_results(op, in, out, where);
    current_tape->record(op, in, out, where);
  } catch (const ShapeError& error) {
    rethrow_with_place(error, where);
  } catch (const MemoryError& error) {
    throw MemoryError(error, op.name(), shapes_of(in), where);
  }
}

Tape::Tape(Options options) : options_(options), id_(next_tape_id()), previous_(current_tape) {
  check_precision(options.precision);
  // A trace stands for what it was made from, which would have run on the tape around it.
  if (options.trace && previous_ != nullptr) options_.precision = previous_->precision();
  flush_.emplace();
  current_tape = this;
}

Tape::~Tape() { stop(); }

void Tape::stop() {
  if (!flush_) return;
  flush_.reset();
  if (current_tape == this) current_tape = previous_;
}

Tape* Tape::current() { return current_tape; }

const RandomPosition* Tape::redraw(std::shared_ptr<RandomPosition> generator, std::uint64_t count) {
  redraws_.push_back(std::make_unique<Redraw>(Redraw{std::move(generator), count, {}, {}}));
  return &redraws_.back()->at;
}

Tensor Tape::input(const Tensor& value, bool needs_grad) {
  return all_or_nothing([&] {
    const auto id = static_cast<std::uint32_t>(values_.size());
    const auto index = static_cast<std::uint32_t>(nodes_.size());
    nodes_.emplace_back(Node{.output_count = 1, .first_output = id, .needs_grad = needs_grad});
    return values_.emplace_back(value, true, index, TapeRef(id_, id, next_serial_++), needs_grad)
        .tensor;
  });
}

Tensor Tape::leaf(const std::shared_ptr<ParameterState>& parameter) {
  const std::uint64_t version = parameter->version;
  auto found = leaf_of_.find(parameter.get());
  if (found == leaf_of_.end() || found->second.version != version) {
    const std::size_t known = leaves_.size();
    try {
      found = all_or_nothing([&] {
        const auto node = static_cast<std::uint32_t>(nodes_.size());
        // A trace must not keep the parameter's storage from being changed in place later on.
        const Tensor& value = parameter->value;
        input(options_.trace ? Tensor::abstract(value.shape(), value.dtype()) : value,
              parameter->trainable);
        nodes_.back().parameter = arena_.make(parameter);
        leaves_.push_back(node);
        return leaf_of_.insert_or_assign(parameter.get(), Leaf{node, version}).first;
      });
    } catch (const MemoryError& error) {
      leaves_.resize(known);
      throw MemoryError(error, "parameter", to_string(parameter->value), Where());
    }
  }
  // A walk back has let go of it.
  Tensor& value = values_[nodes_[found->second.node].first_output].tensor;
  if (value.is_abstract() && !value.is_phantom() && !options_.trace) {
    const TapeRef ref = value.ref();
    value = parameter->value;
    value.set_ref(ref);
  }
  return value;
}

// A trace takes values of an outer tape as inputs, so that gradients can leave through them.
std::uint32_t Tape::foreign_leaf(const Tensor& value) {
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    const Node& node = nodes_[n];
    if (node.foreign != nullptr && node.foreign->ref().tape() == value.ref().tape() &&
        node.foreign->ref().value() == value.ref().value())
      return node.first_output;
  }
  return all_or_nothing([&] {
    const Tensor leaf = input(value, true);
    nodes_.back().foreign = arena_.make(value);
    return leaf.ref().value();
  });
}

// The id of a tensor that an op reads; its data stays where the op's vjp reads it.
inline std::uint32_t Tape::input_value(const Tensor& tensor, const Value* found, bool kept) {
  if (found != nullptr) {
    const std::uint32_t id = tensor.ref().value();
    if (kept && found->tensor.is_abstract()) values_[id].tensor = tensor;
    return id;
  }
  if (options_.trace && tensor.ref().tape() != 0) return foreign_leaf(tensor);
  const auto id = static_cast<std::uint32_t>(values_.size());
  values_.emplace_back(tensor, kept);
  return id;
}

void Tape::record(const Op& op, Args in, std::span<Tensor> out, const Where& where) {
  bool needs = false;
  for (std::size_t i = 0; i < in.size() && !needs; ++i) {
    const Value* const value = find(in[i]);
    needs = value != nullptr ? value->needs_grad : options_.trace && in[i].ref().tape() != 0;
  }
  needs = needs && op.differentiable();
  if (!needs && !options_.trace) {
    // A view may have carried its input's place along: the result is a constant.
    for (Tensor& tensor : out) tensor.set_ref({});
    return;
  }
  all_or_nothing([&] {
    const Keep keep = options_.trace ? Keep{~0u, ~0u} : op.keep();
    const auto kept = [](std::uint32_t mask, std::size_t i) {
      return i >= 32 || (mask >> i & 1) != 0;
    };
    auto* const inputs = arena_.make_array<std::uint32_t>(in.size());
    for (std::size_t i = 0; i < in.size(); ++i)
      inputs[i] = input_value(in[i], find(in[i]), kept(keep.inputs, i));

    const auto index = static_cast<std::uint32_t>(nodes_.size());
    const auto first = static_cast<std::uint32_t>(values_.size());
    const Op* const copy = op.clone(arena_);
    Node& node = nodes_.emplace_back();
    node.op = copy;
    node.inputs = inputs;
    node.input_count = static_cast<std::uint32_t>(in.size());
    node.output_count = static_cast<std::uint32_t>(out.size());
    node.first_output = first;
    node.needs_grad = needs;
    node.where = where;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const TapeRef ref(id_, first + static_cast<std::uint32_t>(i), next_serial_++);
      values_.emplace_back(out[i], kept(keep.outputs, i), index, ref, needs);
      out[i].set_ref(ref);
    }
  });
}

void Tape::rewind(const Mark& mark) {
  for (std::size_t i = mark.leaves; i < leaves_.size(); ++i)
    leaf_of_.erase(nodes_[leaves_[i]].parameter->get());
  nodes_.resize(mark.nodes);
  values_.resize(mark.values);
  leaves_.resize(mark.leaves);
  arena_.rewind(mark.arena);
}

std::uint32_t Tape::value_of(const Tensor& tensor, const char* what) const {
  if (owns(tensor)) return tensor.ref().value();
  const bool other = tensor.ref().tape() != 0;
  fail("tape",
       fmt::format("{} {} was {} this tape", what, to_string(tensor),
                   other ? "recorded on another tape than" : "not recorded on"),
       other ? "A tape ends with its scope; compute the value while this tape lives"
             : "It depends on no parameter and no watched value, or was computed without a tape");
}

namespace {

// Room for the arguments of one vjp: on the stack, but for the rare op with many tensors. Only as
// many as are needed are made.
template <class T, std::size_t usual>
class Scratch {
 public:
  explicit Scratch(std::size_t size) : size_(size) {
    if (size > usual) [[unlikely]]
      data_ = CachedAllocator<T>().allocate(size);
    std::uninitialized_default_construct_n(data_, size);
  }
  ~Scratch() {
    std::destroy_n(data_, size_);
    if (size_ > usual) [[unlikely]]
      CachedAllocator<T>().deallocate(data_, size_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() { return data_; }

 private:
  alignas(T) std::byte few_[usual * sizeof(T)];
  T* data_ = reinterpret_cast<T*>(few_);
  std::size_t size_;
};

}  // namespace

// Checks what a vjp gave and adds it to the gradients of the node's inputs.
inline void Tape::take_gradients(const Node& node, Vjp& v, Grads& grads) {
  for (std::size_t i = 0; i < node.input_count; ++i) {
    Tensor& part = v.result[i];
    if (!v.needed[i] || !part.defined()) continue;
    const bool without_data = part.is_abstract() && !options_.trace && !detail::dry;
    if (part.shape() != v.inputs[i].shape() || without_data || options_.check_numbers) [[unlikely]]
      check_gradient(node, part, v.inputs[i], i, without_data);
    Tensor& grad = grads[node.inputs[i]];
    if (grad.defined()) {
      accumulate_into(grad, part);
    } else {
      grad = std::move(part);
    }
  }
}

// The gradients of a node's outputs become those of its inputs.
void Tape::step_back(Node& node, Grads& grads, bool last) {
  if (node.op == nullptr) return;
  Tensor* const output_grads = &grads[node.first_output];
  bool reached = false;
  for (std::size_t i = 0; i < node.output_count; ++i)
    reached = reached || output_grads[i].defined();
  if (!reached) return;
  if (node.consumed)
    fail("tape", fmt::format("'{}' was walked back through already", node.op->name()), node.where,
         "Pass {.retain = true} to the first backward()");

  const std::size_t in = node.input_count, out = node.output_count;
  Scratch<const Tensor*, 12> tensors(in + 2 * out);
  Scratch<bool, 12> needed(in);
  Scratch<Tensor, 3> results(in);
  const Tensor **const inputs = tensors.data(), **const outputs = inputs + in,
                       **const gradients = outputs + out;
  for (std::size_t i = 0; i < in; ++i) {
    const Value& value = values_[node.inputs[i]];
    inputs[i] = &value.tensor;
    needed.data()[i] = value.needs_grad;
  }
  for (std::size_t i = 0; i < out; ++i) {
    outputs[i] = &values_[node.first_output + i].tensor;
    gradients[i] = &output_grads[i];
  }
  Vjp v{.inputs = Args({inputs, in}),
        .outputs = Args({outputs, out}),
        .grads = Args({gradients, out}),
        .needed = {needed.data(), in},
        .result = {results.data(), in},
        .last = last};
  try {
    node.op->vjp(v);
    for (std::size_t i = 0; i < out; ++i) output_grads[i].reset();
    take_gradients(node, v, grads);
  } catch (const MemoryError& error) {
    node.consumed = last;  // it may have overwritten what was kept
    throw MemoryError(error, fmt::format("{}, backward", node.op->name()), shapes_of(v.inputs),
                      node.where);
  }
}

// Frees what was kept for a node's vjp. All that read its outputs has been walked by now.
void Tape::release(Node& node) {
  if (node.op == nullptr) return;
  node.consumed = true;
  for (std::size_t i = 0; i < node.input_count; ++i)
    if (Value& value = values_[node.inputs[i]]; value.producer == Value::constant)
      value.tensor.drop_data();
  for (std::size_t i = 0; i < node.output_count; ++i)
    values_[node.first_output + i].tensor.drop_data();
}

void Tape::backward(const Tensor& loss, const BackwardOptions& options) {
  const std::uint32_t value = value_of(loss, "the loss");
  if (loss.numel() != 1)
    fail("tape", fmt::format("the loss must have one element, got {}", to_string(loss)),
         "Reduce it with sum() or mean()");
  const CurrentTape unrecorded(nullptr);
  const MemoryScope scope(MemoryKind::gradient);
  Grads grads = no_gradients(values_up_to(value), {&loss, 1});
  grads[value] = Tensor::full(loss.shape(), 1.0, loss.dtype());
  const detail::FlushDenormals flush;
  // Where nothing was recorded behind the loss, nobody needs the parameters' values any longer: an
  // optimizer can change them in place, without a copy.
  const bool last = values_[value].producer + 1 == nodes_.size();
  for (std::size_t n = values_[value].producer + 1; n-- > options.down_to.nodes;) {
    step_back(nodes_[n], grads, !options.retain);
    if (options.retain) continue;
    release(nodes_[n]);
    if (last && nodes_[n].parameter != nullptr) values_[nodes_[n].first_output].tensor.drop_data();
  }
  // All that can fail comes first.
  for (std::uint32_t leaf : leaves_) {
    const Node& node = nodes_[leaf];
    if (node.first_output > value || !grads[node.first_output].defined()) continue;
    if (detail::dry) DryRun::set_aside(*node.parameter);
    Tensor& grad = (*node.parameter)->grad;
    const Tensor& part = grads[node.first_output];
    if (!grad.defined()) continue;
    if (grad.shape() != part.shape() || grad.dtype() != part.dtype()) accumulate(grad, part);
    if (!grad.unique()) grad = grad.clone();
  }
  for (std::uint32_t leaf : leaves_) {
    const Node& node = nodes_[leaf];
    if (node.first_output > value || !grads[node.first_output].defined()) continue;
    Tensor& grad = (*node.parameter)->grad;
    if (grad.defined()) {
      accumulate_into(grad, grads[node.first_output]);
    } else {
      grad = std::move(grads[node.first_output]);
    }
  }
}

std::vector<Tensor> Tape::gradient(std::span<const Tensor> outputs, std::span<const Tensor> wrt,
                                   const GradientOptions& options) {
  if (!options.seeds.empty() && options.seeds.size() != outputs.size())
    fail("gradient", fmt::format("{} seeds for {} outputs", options.seeds.size(), outputs.size()));
  std::uint32_t last = 0;
  for (const Tensor& tensor : outputs) last = std::max(last, value_of(tensor, "the output"));
  for (const Tensor& tensor : wrt)
    last = std::max(last, value_of(tensor, "the value to differentiate by"));
  const CurrentTape recorded(options.create_graph ? this : nullptr);
  const MemoryScope scope(MemoryKind::gradient);
  Grads grads = no_gradients(values_up_to(last), outputs);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Tensor seed = options.seeds.empty()
                            ? Tensor::full(outputs[i].shape(), 1.0, outputs[i].dtype())
                            : options.seeds[i];
    Tensor& grad = grads[outputs[i].ref().value()];
    if (grad.defined()) {
      accumulate_into(grad, seed);
    } else {
      grad = seed;
    }
  }
  // A value's gradient is complete when the walk arrives at its producer, and freed behind it:
  // taken there.
  std::vector<Tensor> result(wrt.size());
  std::size_t above = values_[last].producer + 1;
  std::vector<std::size_t> order(wrt.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return wrt[a].ref().value() > wrt[b].ref().value();
  });
  for (std::size_t i : order) {
    const std::uint32_t value = wrt[i].ref().value();
    const std::size_t down_to = values_[value].producer + std::size_t{1};
    while (above > down_to) step_back(nodes_[--above], grads, false);
    result[i] = grads[value];
    if (!result[i].defined() && options.zeros)
      result[i] = Tensor::zeros(wrt[i].shape(), wrt[i].dtype());
  }
  return result;
}

}  // namespace unroll
