#pragma once

// A generic lambda is the op: `auto y = pointwise([](auto x) { return x * sigmoid(x); }, x);`
// The compiler instantiates it with SIMD vectors for the forward kernel and with dual numbers over
// SIMD vectors for the backward one: one pass over memory each way, no interpreter.

#include <unroll/graph/kernel.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/columns.h>
#include <unroll/ops/dual.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <type_traits>

namespace unroll {

namespace detail {

/// Where one argument of the lambda lies: a tensor, or columns of its last axis.
struct PointwiseSlot {
  int tensor = 0;
  std::int64_t begin = 0;
  std::int64_t width = 0;  ///< 0: the whole tensor
};

/// The loops over one call's elements: `rows` times an inner run in which every argument advances
/// by one element or stands still.
struct PointwiseLoop {
  static constexpr int max_slots = 24;
  std::int64_t inner = 0;
  std::int64_t rows = 1;
  int outer_rank = 0;
  std::array<std::int64_t, Shape::max_rank> outer{};
  std::array<std::array<std::int64_t, Shape::max_rank>, max_slots> stride{};
  std::array<bool, max_slots> steps{};

  /// The element offset of slot `s` at `row`.
  std::int64_t offset(int s, std::int64_t row) const {
    if (outer_rank == 1) return row * stride[s][0];
    std::int64_t result = 0;
    for (int axis = outer_rank - 1; axis >= 0; --axis) {
      result += row % outer[axis] * stride[s][axis];
      row /= outer[axis];
    }
    return result;
  }
};

/// The shape that a call's arguments broadcast to. Throws ShapeError.
Shape pointwise_shape(const char* name, Args in, std::span<const PointwiseSlot> slots);
/// The loops for arguments of `in` and results laid into `out`.
PointwiseLoop pointwise_loop(const Shape& shape, Args in, std::span<const PointwiseSlot> in_slots,
                             std::span<const Tensor> out, std::span<const PointwiseSlot> out_slots);
Rows pointwise_rows(Args in, std::span<const PointwiseSlot> slots, std::span<const bool> stacked);
/// Of a gradient, whose output k is that of input k: may it be written over that input?
std::uint32_t pointwise_in_place(Args in, std::span<const PointwiseSlot> in_slots,
                                 std::span<const PointwiseSlot> out_slots, std::size_t output);
/// Columns that do not cover their tensor just once between them become slices, so that a
/// gradient is written whole.
void resolve_columns(std::span<Columns> columns);
[[noreturn]] void fail_derivative_order(const char* name);

template <class F, int NI>
struct PointwiseTraits {
  template <class T>
  static auto value_result(const F& f) {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return f(((void)I, simd::Lanes<T>())...);
    }
    (std::make_index_sequence<NI>());
  }
  using Result = decltype(value_result<float>(std::declval<const F&>()));
  static constexpr bool many = requires { std::tuple_size<Result>::value; };
  static constexpr int outputs() {
    if constexpr (many) {
      return static_cast<int>(std::tuple_size<Result>::value);
    } else {
      return 1;
    }
  }
};

template <class R>
auto as_tuple(R&& result) {
  if constexpr (requires { std::tuple_size<std::remove_cvref_t<R>>::value; }) {
    return std::forward<R>(result);
  } else {
    return std::tuple<std::remove_cvref_t<R>>(std::forward<R>(result));
  }
}

/// (x..., g...) -> d (sum of g_o f_o(x)) / dx, itself a function that pointwise can take.
template <class F, int NI, int NO>
struct PointwiseGrad {
  F f;

  template <class... X>
  auto operator()(const X&... args) const {
    using V = simd::CommonType<X...>;
    const std::array<V, NI + NO> all{simd::promote<V>(args)...};
    return [&]<int... I>(std::integer_sequence<int, I...>) {
      const auto y = as_tuple(f(simd::Dual<V, 1u << I>{all[I], {V{1}}}...));
      return std::tuple{partial<I>(y, all)...};
    }
    (std::make_integer_sequence<int, NI>());
  }

  template <int I, class Y, class V, std::size_t N>
  static V partial(const Y& y, const std::array<V, N>& all) {
    V sum{0};
    bool first = true;
    const auto one = [&]<int O>(std::integral_constant<int, O>) {
      using Out = std::tuple_element_t<O, Y>;
      if constexpr (simd::AnyDual<Out>) {
        if constexpr (depends<Out>(I)) {
          const V term = all[NI + O] * std::get<O>(y).d[Out::place(I)];
          sum = first ? term : V(sum + term);
          first = false;
        }
      }
    };
    [&]<int... O>(std::integer_sequence<int, O...>) {
      (one(std::integral_constant<int, O>()), ...);
    }
    (std::make_integer_sequence<int, NO>());
    return sum;
  }

  template <class Out>
  static constexpr bool depends(int i) {
    return []<class V, unsigned M>(const simd::Dual<V, M>*) {
      return M;
    }(static_cast<const Out*>(nullptr)) >>
               i &
           1u;
  }
};

}  // namespace detail

/// The record behind pointwise(). A function object with a static `vjp(const F&, Vjp&)` and
/// `keep` replaces the derived gradient (for functions whose gradient needs no inputs).
template <class F, int NI, int NO, int Order = 0>
class PointwiseOp final : public OpRecord<PointwiseOp<F, NI, NO, Order>> {
 public:
  /// Where arguments and results lie.
  struct Slots {
    std::array<detail::PointwiseSlot, NI> in;
    std::array<detail::PointwiseSlot, NO> out;
  };
  /// Most lie so: argument i of f is input i, result o is output o.
  static constexpr Slots whole = [] {
    Slots slots;
    for (int i = 0; i < NI; ++i) slots.in[i].tensor = i;
    for (int o = 0; o < NO; ++o) slots.out[o].tensor = o;
    return slots;
  }();
  static_assert(NI + NO <= detail::PointwiseLoop::max_slots, "too many arguments");

  /// `slots` stay the caller's; a clone takes its own along.
  PointwiseOp(const char* name, const F& f, int out_count, const Slots& slots = whole)
      : name_(name), f_(f), slots_(&slots), out_count_(out_count) {
    for (const auto& slot : slots.in) columns_ = columns_ || slot.width != 0;
    for (const auto& slot : slots.out) columns_ = columns_ || slot.width != 0;
  }
  const Op* clone(Arena& arena) const override {
    auto* const copy = arena.template emplace<PointwiseOp>(*this);
    if (slots_ != &whole) copy->slots_ = arena.make(*slots_);
    return copy;
  }

  const char* name() const override { return name_; }
  int outputs() const override { return out_count_; }

  void infer(Args in, std::span<Spec> out) const override {
    for (Spec& spec : out) {
      spec.dtype = in[0].dtype();
      if constexpr (Order > 0) spec.shape = Shape{0};  // of gradients that nobody wants
    }
    if (is_flat(in) && is_float(in[0].dtype())) {  // most calls: nothing to broadcast
      for (const auto& slot : slots_->out)
        if (slot.tensor >= 0) out[slot.tensor].shape = in[0].shape();
      return;
    }
    const Shape shape = detail::pointwise_shape(name_, in, slots_->in);
    for (const auto& slot : slots_->out) {
      if (slot.tensor < 0) continue;
      out[slot.tensor].shape = slot.width == 0 ? shape : shape.with(-1, slot.width);
    }
  }

  // A few numbers cost less than what it takes to infer and lay out loops.
  void compute(Args in, std::span<Tensor> out) const override {
    if (detail::dry || !is_flat(in)) return Op::compute(in, out);
    const std::int64_t count = in[0].numel();
    if (count <= piece && in[0].dtype() == DType::f32) return compute_piece<float>(in, out, count);
    if (count <= piece && in[0].dtype() == DType::f64) return compute_piece<double>(in, out, count);
    Op::compute(in, out);
  }

  void forward(Args in, std::span<Tensor> out) const override {
    if (in[0].dtype() == DType::f32) {
      run<float>(in, out);
    } else {
      run<double>(in, out);
    }
  }

  const Kernel* bind(Args in, std::span<const bool>, Arena& arena) const override {
    std::array<Spec, std::max(NI, NO)> specs;
    std::array<Tensor, std::max(NI, NO)> out;
    const auto count = static_cast<std::size_t>(out_count_);
    infer(in, std::span(specs.data(), count));
    for (std::size_t o = 0; o < count; ++o)
      out[o] = Tensor::abstract(specs[o].shape, specs[o].dtype);
    const detail::PointwiseLoop loop = loop_of(in, std::span(out.data(), count));
    if (in[0].dtype() == DType::f32) return arena.emplace<Bound<float>>(*this, loop);
    return arena.emplace<Bound<double>>(*this, loop);
  }

  Keep keep() const override {
    if constexpr (requires { F::keep; }) {
      return F::keep;
    } else {
      return {};
    }
  }
  Rows rows(Args in, std::span<const bool> stacked) const override {
    return detail::pointwise_rows(in, slots_->in, stacked);
  }
  // A gradient lies as its input does: what a vector of it is made from has been read when it is
  // written, where nothing is broadcast.
  std::uint32_t in_place(Args in, std::size_t output) const override {
    if constexpr (Order == 0) {
      return 0;
    } else {
      return detail::pointwise_in_place(in, slots_->in, slots_->out, output);
    }
  }

  /// Whole tensors of one shape and dtype: argument i of f is input i, result o is output o, or
  /// nobody's (of a gradient that nobody needs). Then each element is read before it is written,
  /// and a result may lie where an argument does.
  bool is_flat(Args in) const {
    if (columns_) return false;
    for (std::size_t i = 1; i < NI; ++i)
      if (in[i].dtype() != in[0].dtype() || in[i].shape() != in[0].shape()) return false;
    return true;
  }

  void vjp(Vjp& v) const override {
    if constexpr (requires { F::vjp(f_, v); }) {
      F::vjp(f_, v);
    } else if constexpr (Order == 0 || (Order == 1 && NI <= 4)) {
      derived_vjp(v);
    } else {
      detail::fail_derivative_order(name_);
    }
  }

  /// So many elements of tensors of one shape, as every call computes them: compiled a second time,
  /// sums could be rounded in another way.
  template <class T>
  static void run_elements(const F& f, const std::array<const T*, NI>& from,
                           const std::array<T*, NO>& into, std::int64_t count) {
    static constexpr auto all_step = [] {
      std::array<bool, detail::PointwiseLoop::max_slots> steps{};
      steps.fill(true);
      return steps;
    }();
    run_row<simd::Lanes<T>>(f, from, into, all_step, count);
  }

 private:
  static constexpr std::int64_t piece = 4096;  // elements that one thread computes at a time

  template <class T>
  void run(Args in, std::span<Tensor> out) const {
    std::array<const std::byte*, NI> from;
    std::array<std::byte*, std::max(NI, NO)> into;
    for (std::size_t i = 0; i < in.size(); ++i) from[i] = in[i].bytes();
    for (std::size_t o = 0; o < out.size(); ++o) into[o] = out[o].bytes();
    run_loop<T>(loop_of(in, out), from.data(), into.data());
  }

  detail::PointwiseLoop loop_of(Args in, std::span<const Tensor> out) const {
    if (!is_flat(in))
      return detail::pointwise_loop(detail::pointwise_shape(name_, in, slots_->in), in, slots_->in,
                                    out, slots_->out);
    detail::PointwiseLoop loop;
    loop.inner = in[0].numel();
    loop.steps.fill(true);
    return loop;
  }

  // `in` and `out` hold where the tensors begin.
  template <class T>
  void run_loop(const detail::PointwiseLoop& loop, const std::byte* const* in,
                std::byte* const* out) const {
    using L = simd::Lanes<T>;
    if (loop.inner == 0 || loop.rows == 0) return;
    const auto from = sources<T>(*slots_, in);
    const auto into = targets<T>(*slots_, out);
    const double work = 16.0 * static_cast<double>(loop.inner * loop.rows);
    if (loop.rows == 1) {
      parallel_for(loop.inner, piece, work, [&](std::int64_t begin, std::int64_t end) {
        std::array<const T*, NI> p = from;
        std::array<T*, NO> q = into;
        for (std::size_t i = 0; i < NI; ++i)
          if (loop.steps[i]) p[i] += begin;
        for (T*& pointer : q)
          if (pointer != nullptr) pointer += begin;
        run_row<L>(f_, p, q, loop.steps, end - begin);
      });
      return;
    }
    const std::int64_t rows_a_piece = std::max<std::int64_t>(1, piece / loop.inner);
    parallel_for(loop.rows, rows_a_piece, work, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::array<const T*, NI> p;
        std::array<T*, NO> q;
        for (int i = 0; i < NI; ++i) p[i] = from[i] + loop.offset(i, row);
        for (int o = 0; o < NO; ++o)
          q[o] = into[o] == nullptr ? nullptr : into[o] + loop.offset(NI + o, row);
        run_row<L>(f_, p, q, loop.steps, loop.inner);
      }
    });
  }

  // A piece of whole tensors: no loops to lay out.
  template <class T>
  void compute_piece(Args in, std::span<Tensor> out, std::int64_t count) const {
    std::array<const T*, NI> from;
    std::array<T*, NO> into;
    for (int i = 0; i < NI; ++i) from[i] = in[i].template ptr<T>();
    for (int o = 0; o < NO; ++o) {
      if (slots_->out[o].tensor < 0) [[unlikely]] {
        out[o].make_empty(Shape{0}, dtype_of<T>());
        into[o] = nullptr;
      } else {
        out[o].make_empty(in[0].shape(), dtype_of<T>(), count);
        into[o] = out[o].template mutable_ptr<T>();
      }
    }
    run_elements<T>(f_, from, into, count);
  }

  template <class T>
  static std::array<const T*, NI> sources(const Slots& slots, const std::byte* const* in) {
    std::array<const T*, NI> from;
    for (int i = 0; i < NI; ++i)
      from[i] = reinterpret_cast<const T*>(in[slots.in[i].tensor]) + slots.in[i].begin;
    return from;
  }
  template <class T>
  static std::array<T*, NO> targets(const Slots& slots, std::byte* const* out) {
    std::array<T*, NO> into;
    for (int o = 0; o < NO; ++o) {
      const detail::PointwiseSlot& slot = slots.out[o];
      into[o] = slot.tensor < 0 ? nullptr : reinterpret_cast<T*>(out[slot.tensor]) + slot.begin;
    }
    return into;
  }

  template <class T>
  class Bound : public Kernel {
   public:
    Bound(const PointwiseOp& op, const detail::PointwiseLoop& loop)
        : op_(op), slots_(*op.slots_), loop_(loop) {}
    void run(const std::byte* const* in, std::byte* const* out) const override {
      if (loop_.rows == 1 && loop_.inner <= piece)
        return run_row<simd::Lanes<T>>(op_.f_, sources<T>(slots_, in), targets<T>(slots_, out),
                                       loop_.steps, loop_.inner);
      op_.template run_loop<T>(loop_, in, out);
    }

   private:
    const PointwiseOp& op_;
    const Slots& slots_;
    detail::PointwiseLoop loop_;
  };

  // Flattened: a vector handed to a function that is not inlined would go through memory.
  template <class L, class T>
  [[gnu::noinline]] UNROLL_FLATTEN static void run_row(
      const F& f, const std::array<const T*, NI>& p, const std::array<T*, NO>& q,
      const std::array<bool, detail::PointwiseLoop::max_slots>& steps, std::int64_t n) {
    constexpr std::int64_t lanes = L::count;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
      step<L>(
          f, [&](int k) { return steps[k] ? L::load(p[k] + i) : L(*p[k]); },
          [&](int o, const L& y) {
            if (q[o] != nullptr) y.store(q[o] + i);
          });
    if (i < n) {
      const auto rest = static_cast<std::size_t>(n - i);
      step<L>(
          f, [&](int k) { return steps[k] ? L::load_first(p[k] + i, rest) : L(*p[k]); },
          [&](int o, const L& y) {
            if (q[o] != nullptr) y.store_first(q[o] + i, rest);
          });
    }
  }

  template <class L, class Load, class Store>
  static void step(const F& f, const Load& load, const Store& store) {
    [&]<int... I>(std::integer_sequence<int, I...>) {
      const auto y = detail::as_tuple(f(load(I)...));
      [&]<int... O>(std::integer_sequence<int, O...>) {
        (store(O, simd::promote<L>(std::get<O>(y))), ...);
      }
      (std::make_integer_sequence<int, NO>());
    }
    (std::make_integer_sequence<int, NI>());
  }

  void derived_vjp(Vjp& v) const {
    using Grad = detail::PointwiseGrad<F, NI, NO>;
    using GradOp = PointwiseOp<Grad, NI + NO, NI, Order + 1>;
    typename GradOp::Slots slots;
    std::array<const Tensor*, NI + NO> args;
    std::array<Tensor, NO> filled;
    const int inputs = static_cast<int>(v.inputs.size());
    for (int i = 0; i < inputs; ++i) args[i] = &v.inputs[i];
    for (int i = 0; i < NI; ++i) slots.in[i] = slots_->in[i];
    int last = inputs;
    for (int o = 0; o < NO; ++o) {
      if (slots_->out[o].width != 0) detail::fail_derivative_order(name_);
      slots.in[NI + o] = {last, 0, 0};
      if (slots_->out[o].tensor < 0) {
        filled[o] = Tensor::zeros(Shape{}, v.inputs[0].dtype());  // nobody asked for this result
      } else if (!v.grads[slots_->out[o].tensor].defined()) {
        filled[o] = v.grad(static_cast<std::size_t>(slots_->out[o].tensor));
      }
      args[last++] = filled[o].defined() ? &filled[o] : &v.grads[slots_->out[o].tensor];
    }
    // Columns of one tensor get their gradients side by side in one tensor.
    for (int i = 0; i < NI; ++i) {
      slots.out[i] = {slots_->in[i].tensor, slots_->in[i].begin, 0};
      if (!v.needed[slots_->in[i].tensor]) slots.out[i].tensor = -1;
      if (slots_->in[i].width != 0) slots.out[i].width = v.inputs[slots_->in[i].tensor].shape()[-1];
    }
    const GradOp op(name_, Grad{f_}, inputs, slots);
    std::array<Tensor, NI> results;
    if (op.is_flat(Args(args))) {
      // Gradients of arguments are written over those of results, as far as these go.
      std::size_t i = 0;
      for (std::size_t o = 0; o < NO; ++o) {
        while (i < NI && !v.needed[i]) ++i;
        if (i == NI || args[NI + o] != v.own_grads[o] || !can_overwrite(*args[NI + o])) continue;
        results[i] = std::move(v.pass_on(o, i));
        args[NI + o] = &results[i++];
      }
    }
    apply(op, Args({args.data(), static_cast<std::size_t>(last)}),
          std::span(results.data(), v.inputs.size()), Where::current());
    for (int i = 0; i < inputs; ++i) {
      if (!v.needed[i]) continue;
      const bool broadcast = results[i].shape() != v.inputs[i].shape();
      v.result[i] = broadcast ? sum_to(results[i], v.inputs[i].shape()) : std::move(results[i]);
    }
  }

  const char* name_;
  F f_;
  const Slots* slots_;
  int out_count_;
  bool columns_ = false;  // of some tensor
};

/// A name for errors and listings, and the caller's place.
struct PointwiseName {
  const char* text = "pointwise";
  Where where;
  PointwiseName(const char* name, Where caller = Where::current())  // NOLINT: meant to convert
      : text(name), where(caller) {}
};

namespace detail {

inline Columns as_columns(const Tensor& tensor) { return {tensor, 0, 0}; }
inline Columns as_columns(const Parameter& parameter) { return {Tensor(parameter), 0, 0}; }
inline const Columns& as_columns(const Columns& columns) { return columns; }

template <class F, int NI>
using PointwiseOf = PointwiseOp<F, NI, PointwiseTraits<F, NI>::outputs()>;

/// Runs `f` on `args`, where argument i of f lies at slots.in[i].
template <int NI, class F>
auto apply_pointwise(const PointwiseName& name, const F& f, Args args,
                     const typename PointwiseOf<F, NI>::Slots& slots) {
  constexpr int no = PointwiseTraits<F, NI>::outputs();
  const PointwiseOf<F, NI> op(name.text, f, no, slots);
  // One object for both kinds, in the outermost block: compilers build it where the caller wants
  // it.
  std::conditional_t<PointwiseTraits<F, NI>::many, std::array<Tensor, no>, Tensor> result;
  if constexpr (PointwiseTraits<F, NI>::many) {
    apply(op, args, result, name.where);
  } else {
    apply(op, args, std::span(&result, 1), name.where);
  }
  return result;
}

}  // namespace detail

/// Applies `f` to the elements of tensors (or Columns) that broadcast together. `f` is a generic
/// callable of NI values, made of arithmetic, comparisons and the functions of ops/dual.h; it
/// returns a value or a std::tuple of values. Returns one Tensor, or a std::array of them.
template <class F, class... X>
requires(sizeof...(X) > 0) auto pointwise(const PointwiseName& name, const F& f, const X&... x) {
  constexpr int ni = sizeof...(X);
  std::array<const Tensor*, ni> args;
  if constexpr ((std::is_same_v<X, Tensor> && ...)) {  // the usual case copies no handle
    args = {&x...};
    return detail::apply_pointwise<ni>(name, f, Args(args), detail::PointwiseOf<F, ni>::whole);
  } else {
    std::array<Columns, ni> columns{detail::as_columns(x)...};
    detail::resolve_columns(columns);
    auto slots = detail::PointwiseOf<F, ni>::whole;
    std::size_t count = 0;
    for (int i = 0; i < ni; ++i) {
      // Columns of one tensor share one input.
      std::size_t k = 0;
      if (columns[i].width != 0)
        while (k < count && !(in_same_tensor(*args[k], columns[i].tensor))) ++k;
      else
        k = count;
      if (k == count) args[count++] = &columns[i].tensor;
      slots.in[i] = {static_cast<int>(k), columns[i].begin, columns[i].width};
    }
    return detail::apply_pointwise<ni>(name, f, Args({args.data(), count}), slots);
  }
}

template <class F, class... X>
requires(!std::is_convertible_v<const F&, PointwiseName> &&
         sizeof...(X) > 0) auto pointwise(const F& f, const X&... x) {
  return pointwise(PointwiseName("pointwise", Where()), f, x...);
}

namespace detail {

/// x = f(x, rest...), written over x where that can be: for a vjp, behind Vjp::pass_on().
template <class F, class... Rest>
void pointwise_over(const PointwiseName& name, const F& f, Tensor& x, const Rest&... rest) {
  const PointwiseOp<F, 1 + sizeof...(Rest), 1> op(name.text, f, 1);
  const std::array<const Tensor*, 1 + sizeof...(Rest)> args{&x, &rest...};
  if (!op.is_flat(Args(args)) || !can_overwrite(x)) {
    x = pointwise(name, f, x, rest...);
  } else if (FlushDenormals::on() && ((rest.bytes() != nullptr) && ...)) {
    op.compute(Args(args), std::span(&x, 1));  // all that apply() would do in a walk
  } else {
    apply(op, Args(args), std::span(&x, 1), name.where);
  }
}

}  // namespace detail

}  // namespace unroll
