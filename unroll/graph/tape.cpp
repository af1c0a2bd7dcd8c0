#include <fmt/format.h>
#include <unroll/graph/current_tape.h>
#include <unroll/graph/dry_run.h>
#include <unroll/graph/precision.h>
#include <unroll/graph/threads.h>

#include <algorithm>
#include <atomic>
#include <cmath>

namespace unroll {
namespace {

using detail::current_tape, detail::CurrentTape, detail::shapes_of;

std::uint64_t next_tape_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
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
  // An operand that is a result, too, would be gone before it is read.
  for (std::size_t o = 0; o < out.size(); ++o)
    for (std::size_t i = 0; i < in.size(); ++i)
      if (&in[i] == &out[o] &&
          (!out[o].unique() || in[i].shape() != specs[o].shape || in[i].dtype() != specs[o].dtype))
        fail(op.name(),
             fmt::format("its result {} cannot be written over operand {}, {}",
                         to_string(specs[o].shape), i, to_string(in[i])),
             "Give the result a tensor of its own");
  for (std::size_t i = 0; i < out.size(); ++i) out[i].make_empty(specs[i].shape, specs[i].dtype);
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

bool all_have_data(Args in) {
  for (std::size_t i = 0; i < in.size(); ++i)
    if (in[i].bytes() == nullptr) return false;
  return true;
}

// What an op seldom meets or says is out of line: apply() is short where it is called for a number.

// Only shapes are known of an input, so that only shapes can be inferred. In a dry run that is so
// of every tensor: there, the inputs of a trace are those whose memory is not even counted.
bool on_shapes(const Op& op, Args in, const Where& where) {
  for (std::size_t i = 0; i < in.size(); ++i)
    if (!in[i].defined()) fail(op.name(), fmt::format("input {} is an undefined tensor", i), where);
  if (detail::dry && (current_tape == nullptr || !current_tape->traces())) return false;
  for (std::size_t i = 0; i < in.size(); ++i)
    if (in[i].is_abstract() && !(detail::dry && in[i].is_phantom())) return true;
  return false;
}

[[gnu::noinline]] void check_results(const Op& op, Args in, std::span<const Tensor> out,
                                     const Where& where) {
  for (const Tensor& tensor : out)
    if (!detail::all_finite(tensor))
      fail(op.name(),
           fmt::format("the result {} of {} is not finite", to_string(tensor), shapes_of(in)),
           where);
}

[[noreturn, gnu::noinline]] void rethrow_with_op(const MemoryError& error, const Op& op, Args in,
                                                 const Where& where) {
  throw MemoryError(error, op.name(), shapes_of(in), where);
}

// The op knows what was wrong, only the call of apply() knows who called.
[[noreturn, gnu::noinline]] void rethrow_with_place(const ShapeError& error, const Where& where) {
  if (where.line() == 0 || std::string_view(error.what()).find(".cpp:") != std::string::npos)
    throw error;
  const std::string_view path = where.file_name();
  throw ShapeError(fmt::format("{} ({}:{})", error.what(), path.substr(path.find_last_of('/') + 1),
                               where.line()));
}

// Without data, or without a tape or a walk back around it, which flush denormals for all ops.
[[gnu::noinline]] void compute_seldom(const Op& op, Args in, std::span<Tensor> out,
                                      const Where& where) {
  if (on_shapes(op, in, where)) return infer_abstract(op, in, out);
  const detail::FlushDenormals flush;
  op.compute(in, out);
}

}  // namespace

namespace detail {

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

}  // namespace detail

void Op::vjp(Vjp&) const {
  fail(name(), "has no gradient",
       "Compose it from other ops, or give it a vjp (docs/extending.md)");
}

NoGrad::NoGrad() : saved_(std::exchange(current_tape, nullptr)) {}
NoGrad::~NoGrad() { current_tape = saved_; }

void Op::compute(Args in, std::span<Tensor> out) const {
  const CurrentTape unrecorded(nullptr);  // a composition inside an op is not on the tape
  if (allocates()) return forward(in, out);
  allocate_outputs(*this, in, out);
  if (!detail::dry) [[likely]]
    return forward(in, out);
  if (const auto bytes = static_cast<std::int64_t>(workspace(in)); bytes > 0)
    Tensor::empty({bytes}, DType::u8);
}

// A tensor that an op reads and that is none of this tape's values yet.
[[gnu::noinline]] std::uint32_t Tape::new_input(const Tensor& tensor, bool kept) {
  if (options_.trace && tensor.ref().tape() != 0) return foreign_leaf(tensor);
  const auto id = static_cast<std::uint32_t>(values_.size());
  values_.emplace_back(tensor, kept);
  return id;
}

// Its only caller is apply(), of which it is a part.
[[gnu::always_inline]] inline void Tape::record(const Op& op, Args in, std::span<Tensor> out,
                                                const Where& where) {
  const Node::Operands operands(arena_, in.size(), out.size());
  bool needs = false, all_known = true;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const Value* const value = find(in[i]);
    all_known = all_known && value != nullptr;
    operands.inputs[i] = in[i].ref().value();
    operands.tensors[i] = value != nullptr ? &value->tensor : nullptr;
    operands.needed[i] =
        value != nullptr ? value->needs_grad : options_.trace && in[i].ref().tape() != 0;
    needs = needs || operands.needed[i];
  }
  needs = needs && op.differentiable();
  if (!needs && !options_.trace) {
    // A view may have carried its input's place along: the result is a constant.
    for (Tensor& tensor : out) tensor.set_ref({});
    return arena_.take_back(operands.tensors);
  }
  const std::size_t nodes = nodes_.size(), values = values_.size();
  try {
    const Keep keep = options_.trace ? Keep{~0u, ~0u} : op.keep();
    const auto kept = [](std::uint32_t mask, std::size_t i) {
      return i >= 32 || (mask >> i & 1) != 0;
    };
    const bool nothing_to_keep = all_known && keep.inputs == 0 && in.size() <= 32;
    for (std::size_t i = 0; i < in.size() && !nothing_to_keep; ++i) {
      if (operands.tensors[i] == nullptr) {
        operands.inputs[i] = new_input(in[i], kept(keep.inputs, i));
        operands.tensors[i] = &values_[operands.inputs[i]].tensor;
      } else if (kept(keep.inputs, i) && operands.tensors[i]->is_abstract()) {
        values_[operands.inputs[i]].tensor = in[i];
      }
    }
    const auto index = static_cast<std::uint32_t>(nodes_.size());
    const auto first = static_cast<std::uint32_t>(values_.size());
    const Op* const copy = op.clone(arena_);
    nodes_.emplace_back(Node{.op = copy,
                             .inputs = operands.inputs,
                             .tensors = operands.tensors,
                             .input_count = static_cast<std::uint32_t>(in.size()),
                             .output_count = static_cast<std::uint32_t>(out.size()),
                             .first_output = first,
                             .needs_grad = needs,
                             .where = where});
    for (std::size_t i = 0; i < out.size(); ++i) {
      const TapeRef ref(id_, first + static_cast<std::uint32_t>(i), next_serial_++);
      operands.tensors[in.size() + i] =
          &values_.emplace_back(out[i], kept(keep.outputs, i), index, ref, needs).tensor;
      out[i].set_ref(ref);
    }
  } catch (...) {  // memory ends: as if it had not been
    nodes_.resize(nodes);
    values_.resize(values);
    throw;
  }
}

void apply(const Op& op, Args in, std::span<Tensor> out, const Where& where) {
  Tape* const tape = current_tape;
  try {
    if (all_have_data(in) && detail::FlushDenormals::on()) [[likely]] {
      op.compute(in, out);
    } else {
      compute_seldom(op, in, out, where);
    }
    if (tape == nullptr) return;
    if (tape->checks_numbers()) [[unlikely]]
      check_results(op, in, out, where);
    // Of an op with one operand and one result, as most small ones are, record() has no loops left.
    if (in.size() == 1 && out.size() == 1) {
      const Tensor* const only[] = {&in[0]};
      tape->record(op, Args(only), out.first(1), where);
    } else {
      tape->record(op, in, out, where);
    }
  } catch (const ShapeError& error) {
    rethrow_with_place(error, where);
  } catch (const MemoryError& error) {
    rethrow_with_op(error, op, in, where);
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

void Tape::rewind(const Mark& mark) {
  for (std::size_t i = mark.leaves; i < leaves_.size(); ++i)
    leaf_of_.erase(nodes_[leaves_[i]].parameter->get());
  nodes_.resize(mark.nodes);
  values_.resize(mark.values);
  leaves_.resize(mark.leaves);
  arena_.rewind(mark.arena);
}

}  // namespace unroll
