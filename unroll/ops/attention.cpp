#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/attention_kernels.h>
#include <unroll/ops/attention_plain.h>
#include <unroll/ops/cast.h>
#include <unroll/ops/check.h>
#include <unroll/ops/index.h>
#include <unroll/ops/lengths.h>
#include <unroll/ops/pointwise.h>
#include <unroll/ops/samples.h>

#include <algorithm>
#include <cmath>

namespace unroll {
namespace {

/// Which input q, k or v is, or which columns of it.
struct Place {
  std::size_t input = 0;
  std::int64_t begin = 0, width = 0;  // width 0: all of it
};

/// What both records share. Inputs: one tensor to three, then lengths and mask where given.
struct Layout {
  std::array<Place, 3> places;
  std::size_t tensors = 0;
  std::int64_t heads = 0;  ///< 0: [B, H, T, D]; else [T, B, H D]
  bool has_lengths = false, has_mask = false;
  bool causal = false;
  std::int64_t window = 0;
  double dropout = 0;
  Draw drawn;

  bool time_major() const { return heads != 0; }
  std::size_t inputs() const { return tensors + (has_lengths ? 1u : 0u) + (has_mask ? 1u : 0u); }

  // [B, H, T, D] of q, k or v, H and D of k and v in units of q's D.
  Shape shape_of(Args in, int which) const {
    const Place& place = places[which];
    const Shape& shape = in[place.input].shape();
    if (!time_major()) return shape;
    const std::int64_t size = width_of(in, 0) / heads;
    return {shape[1], width_of(in, which) / size, shape[0], size};
  }
  std::int64_t width_of(Args in, int which) const {
    return places[which].width != 0 ? places[which].width : in[places[which].input].size(-1);
  }

  void check(Args in, const Where& where) const {
    const char* name = "attention";
    const auto text = [&](int which) {
      const Place& place = places[which];
      const std::string shape = to_string(in[place.input].shape());
      return place.width == 0 ? shape : fmt::format("{} columns of {}", place.width, shape);
    };
    const auto misfit = [&](const char* hint) {
      fail_shape_at(name, fmt::format("q {}, k {} and v {} do not fit", text(0), text(1), text(2)),
                    where, hint);
    };
    const char* hint = time_major() ? "They are [T, B, heads D]; k and v are alike"
                                    : "They are [B, heads, T, D]; k and v are alike";
    for (std::size_t i = 0; i < tensors; ++i) {
      if (in[i].rank() != (time_major() ? 3 : 4)) misfit(hint);
      if (!is_float(in[i].dtype()) || in[i].dtype() != in[0].dtype())
        fail(name,
             fmt::format("needs f32 or f64 throughout, got {} and {}", to_string(in[0]),
                         to_string(in[i])),
             where);
    }
    if (time_major()) {
      const std::int64_t width = width_of(in, 0);
      if (heads < 1 || width == 0 || width % heads != 0)
        fail_shape_at(name, fmt::format("{} heads do not divide q {}", heads, text(0)), where);
      if (width_of(in, 1) % (width / heads) != 0 || width_of(in, 1) != width_of(in, 2))
        misfit("k and v have heads as wide as q's");
    }
    const Shape q = shape_of(in, 0), k = shape_of(in, 1), v = shape_of(in, 2);
    if (v != k || q[0] != k[0] || q[3] != k[3]) misfit(hint);
    if (k[1] == 0 || q[1] % k[1] != 0)
      misfit("The number of key-value heads divides that of heads");
    if (has_lengths) check_lengths(name, in[tensors], k[2], q[0], where);
    if (has_mask) {
      const Shape &mask = in[inputs() - 1].shape(), full{q[0], q[1], q[2], k[2]};
      bool fits = mask.rank() <= 4;
      for (int i = 1; fits && i <= mask.rank(); ++i) fits = mask[-i] == 1 || mask[-i] == full[-i];
      if (!fits)
        fail_shape_at(
            name, fmt::format("mask {} does not broadcast to {}", to_string(mask), to_string(full)),
            where, "It is [B, heads, T_q, T_k]");
    }
  }

  detail::AttentionRules rules(Args in) const {
    const Shape q = shape_of(in, 0), k = shape_of(in, 1);
    return {.batch = q[0],
            .heads = q[1],
            .kv_heads = k[1],
            .queries = q[2],
            .keys = k[2],
            .size = q[3],
            .causal = causal,
            .window = window,
            .scale = 1.0 / std::sqrt(static_cast<double>(q[3])),
            .dropout = dropout,
            .seed = drawn.position().seed,
            .first = drawn.position().next};
  }

  // Strides of data that begins at q's, k's or v's.
  template <class T>
  detail::HeadRows<T> strides(T* data, const Shape& whole, std::int64_t begin,
                              std::int64_t size) const {
    if (!time_major()) return {data, whole[1] * whole[2] * size, whole[2] * size, size};
    return {data + begin, whole[2], size, whole[1] * whole[2]};
  }

  template <class T>
  detail::AttentionInputs<T> operands(Args in) const {
    const std::int64_t size = shape_of(in, 0)[3];
    const auto rows = [&](int which) {
      const Tensor& x = in[places[which].input];
      return strides<const T>(x.ptr<T>(), x.shape(), places[which].begin, size);
    };
    detail::AttentionInputs<T> result{rows(0), rows(1), rows(2)};
    if (has_lengths) result.lengths = in[tensors].ptr<std::int64_t>();
    if (has_mask) {
      const Tensor& mask = in[inputs() - 1];
      result.mask = mask.ptr<T>();
      std::int64_t step = 1;
      for (int i = 1; i <= mask.rank(); ++i) {
        if (mask.size(-i) != 1) result.mask_step[4 - i] = step;
        step *= mask.size(-i);
      }
    }
    return result;
  }

  // Rows put together are batches put together, unless time leads or something knows the batch.
  Rows rows(std::span<const bool> stacked) const {
    if (time_major() || has_mask) return Rows::none;
    return std::all_of(stacked.begin(), stacked.end(), [](bool one) { return one; }) ? Rows::map
                                                                                     : Rows::none;
  }
};

struct AttentionBackward : OpRecord<AttentionBackward> {
  Layout layout;
  explicit AttentionBackward(const Layout& l) : layout(l) {}

  const char* name() const override { return "attention_backward"; }
  int outputs() const override { return static_cast<int>(layout.tensors); }
  bool random() const override { return layout.dropout > 0; }
  // in: those of the forward record, its results and the gradient of the first
  void infer(Args in, std::span<Spec> out) const override {
    for (std::size_t i = 0; i < layout.tensors; ++i) out[i] = in[i].spec();
  }
  std::size_t workspace(Args in) const override {
    return detail::attend_backward_workspace(layout.rules(in), layout.time_major(),
                                             static_cast<std::size_t>(size_of(in[0].dtype())));
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      const detail::AttentionRules rules = layout.rules(in);
      const std::size_t n = layout.inputs();
      const auto result = [&](const Tensor& x) {
        return layout.strides<const T>(x.ptr<T>(), x.shape(), 0, rules.size);
      };
      const auto grad = [&](int which) {
        const Place& place = layout.places[which];
        Tensor& to = out[place.input];
        return layout.strides<T>(to.mutable_ptr<T>(), to.shape(), place.begin, rules.size);
      };
      detail::attend_backward(rules, layout.operands<T>(in),
                              {result(in[n]), result(in[n + 2]), in[n + 1].ptr<T>()},
                              {grad(0), grad(1), grad(2)});
    });
  }
  Keep keep() const override { return {.inputs = 0}; }
  Rows rows(Args, std::span<const bool> stacked) const override { return layout.rows(stacked); }
};

struct Attention : OpRecord<Attention> {
  Layout layout;
  explicit Attention(const Layout& l) : layout(l) {}

  const char* name() const override { return "attention"; }
  int outputs() const override { return 2; }
  bool random() const override { return layout.dropout > 0; }
  // out: the result, and each query's logarithm of its sum [B, H, T_q], for the way back
  void infer(Args in, std::span<Spec> out) const override {
    const Shape q = layout.shape_of(in, 0);
    out[0] = {layout.time_major() ? Shape{q[2], q[0], q[1] * q[3]} : q, in[0].dtype()};
    out[1] = {{q[0], q[1], q[2]}, in[0].dtype()};
  }
  std::size_t workspace(Args in) const override {
    return detail::attend_workspace(layout.rules(in), layout.time_major(),
                                    static_cast<std::size_t>(size_of(in[0].dtype())));
  }
  void forward(Args in, std::span<Tensor> out) const override {
    with_float(name(), in[0].dtype(), [&](auto zero) {
      using T = decltype(zero);
      const detail::AttentionRules rules = layout.rules(in);
      // Those of a replay were not there when its call was checked.
      if (layout.has_lengths)
        check_lengths(name(), in[layout.tensors], rules.keys, rules.batch, Where());
      detail::attend(rules, layout.operands<T>(in),
                     layout.strides<T>(out[0].mutable_ptr<T>(), out[0].shape(), 0, rules.size),
                     out[1].mutable_ptr<T>());
    });
  }
  Keep keep() const override { return {.inputs = ~0u, .outputs = 0b11}; }
  void vjp(Vjp& v) const override {
    if (!v.grads[0].defined()) return;
    // Gradients of gradients are taken of the plain form.
    if (const Tape* tape = Tape::current(); tape != nullptr && !tape->traces()) return plain_vjp(v);
    std::array<const Tensor*, 8> args;
    std::size_t count = 0;
    for (std::size_t i = 0; i < v.inputs.size(); ++i) args[count++] = &v.inputs[i];
    for (const Tensor* one : {&v.outputs[0], &v.outputs[1], &v.grads[0]}) args[count++] = one;
    std::array<Tensor, 3> grads;
    apply(AttentionBackward(layout), Args({args.data(), count}),
          std::span(grads.data(), layout.tensors), Where::current());
    for (std::size_t i = 0; i < layout.tensors; ++i)
      if (v.needed[i]) v.result[i] = std::move(grads[i]);
  }
  Rows rows(Args, std::span<const bool> stacked) const override { return layout.rows(stacked); }

 private:
  void plain_vjp(Vjp& v) const {
    const Where where = Where::current();
    const std::size_t n = layout.tensors;
    const RandomPosition& drawn = layout.drawn.position();
    Generator generator(drawn.seed);
    generator.seek(drawn.next);
    AttentionOptions options{.causal = layout.causal,
                             .window = layout.window,
                             .dropout = layout.dropout,
                             .generator = &generator};
    if (layout.has_lengths) options.lengths = v.inputs[n];
    if (layout.has_mask) options.mask = v.inputs[layout.inputs() - 1];
    const auto part = [&](int which) -> Tensor {
      const Place& place = layout.places[which];
      Tensor x = Columns{v.inputs[place.input], place.begin, place.width};
      if (!layout.time_major()) return x;
      return detail::heads_apart(x, layout.shape_of(v.inputs, which)[1], where);
    };
    const Tensor g =
        layout.time_major() ? detail::heads_apart(v.grads[0], layout.heads, where) : v.grads[0];
    std::array<Tensor, 3> grads =
        detail::plain_attention_grads(part(0), part(1), part(2), g, options);
    for (Tensor& grad : grads)
      if (layout.time_major()) grad = detail::heads_joined(grad, where);
    // Columns of one tensor side by side, in their order.
    for (std::size_t i = 0; i < n; ++i) {
      if (!v.needed[i]) continue;
      std::vector<std::pair<std::int64_t, Tensor>> parts;
      for (int which = 0; which < 3; ++which)
        if (layout.places[which].input == i)
          parts.emplace_back(layout.places[which].begin, grads[which]);
      std::sort(parts.begin(), parts.end(),
                [](const auto& a, const auto& b) { return a.first < b.first; });
      std::vector<Tensor> columns;
      for (auto& [begin, grad] : parts) columns.push_back(grad);
      v.result[i] = columns.size() == 1 ? columns[0] : concat(columns, -1, where);
    }
  }
};

void check_options(const AttentionOptions& o, const Where& where) {
  if (!(o.dropout >= 0 && o.dropout < 1))
    fail("attention", fmt::format("dropout {} is not in [0, 1)", o.dropout), where);
  if (o.dropout > 0 && o.generator == nullptr)
    fail("attention", "dropout needs a generator", where);
  if (o.window < 0 || (o.window > 0 && !o.causal))
    fail("attention", fmt::format("a window of {}", o.window), where,
         "It is the number of keys that a query sees, its own position's the last: causal");
  if (o.mask.defined() && !is_float(o.mask.dtype()) && o.mask.dtype() != DType::u8)
    fail("attention", fmt::format("mask {}", to_string(o.mask)), where,
         "It must be f32, f64 or u8");
}

AttentionOutput run(std::array<Columns, 3> columns, std::int64_t heads,
                    const AttentionOptions& options, const Where& where) {
  check_options(options, where);
  for (const Columns& one : columns)
    if (!one.tensor.defined()) fail("attention", "q, k or v is an undefined tensor", where);
  detail::resolve_columns(columns);
  Layout layout;
  layout.heads = heads;
  std::array<const Tensor*, 5> args;
  for (int i = 0; i < 3; ++i) {
    // Columns of one tensor share one input.
    const Columns& one = columns[i];
    std::size_t k = layout.tensors;
    for (int j = 0; j < i && one.width != 0; ++j)
      if (columns[j].width != 0 && in_same_tensor(columns[j].tensor, one.tensor))
        k = layout.places[j].input;
    if (k == layout.tensors) args[layout.tensors++] = &one.tensor;
    layout.places[i] = {k, one.begin, one.width};
  }
  std::size_t count = layout.tensors;
  AttentionOptions given = options;
  if (given.lengths.dtype() == DType::i32) given.lengths = cast(given.lengths, DType::i64, where);
  if (given.mask.defined()) given.mask = cast(given.mask, columns[0].tensor.dtype(), where);
  if ((layout.has_lengths = given.lengths.defined())) args[count++] = &given.lengths;
  if ((layout.has_mask = given.mask.defined())) args[count++] = &given.mask;
  layout.causal = options.causal;
  layout.window = options.window;
  const Args in({args.data(), count});
  layout.check(in, where);
  if (options.need_weights) {
    const auto part = [&](int i) -> Tensor {
      const Tensor x = columns[i];
      return heads == 0 ? x : detail::heads_apart(x, layout.shape_of(in, i)[1], where);
    };
    AttentionOutput result = detail::plain_attention(part(0), part(1), part(2), given, where);
    if (heads != 0) result.output = detail::heads_joined(result.output, where);
    return result;
  }
  if (options.dropout > 0) {
    const detail::AttentionRules r = layout.rules(in);
    layout.dropout = options.dropout;
    layout.drawn =
        options.generator->draw(static_cast<std::uint64_t>(r.batch * r.heads * r.queries * r.keys));
  }
  std::array<Tensor, 2> results;
  apply(Attention(layout), in, results, where);
  return {std::move(results[0]), {}};
}

}  // namespace

AttentionOutput attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionOptions& options, Where where) {
  return run({Columns{q}, Columns{k}, Columns{v}}, 0, options, where);
}

AttentionOutput attention(const Columns& q, const Columns& k, const Columns& v, std::int64_t heads,
                          const AttentionOptions& options, Where where) {
  if (heads < 1) fail_shape_at("attention", fmt::format("{} heads", heads), where);
  return run({q, k, v}, heads, options, where);
}

namespace {

using In = std::span<const Tensor>;

Tensor counts(std::initializer_list<std::int64_t> values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

Tensor random_mask(const Shape& shape) { return Generator(5).uniform(shape, 0, 1).to(DType::f64); }

OpSample sample(std::int64_t tq, std::int64_t tk, const AttentionOptions& options,
                std::int64_t kv_heads = 2) {
  return normal_sample({{2, 2, tq, 4}, {2, kv_heads, tk, 4}, {2, kv_heads, tk, 4}},
                       [options](In in) {
                         AttentionOptions o = options;
                         Generator g(11);
                         o.generator = &g;
                         return attention(in[0], in[1], in[2], o).output;
                       });
}

const RegisterOp row{{
    .name = "attention",
    .signature = "attention(q, k, v, {.causal, .window, .lengths, .mask, .dropout, .generator, "
                 ".need_weights})",
    .summary = "Scaled dot-product attention over heads, by tiles",
    .samples = {sample(5, 5, {.causal = true}), sample(3, 7, {.causal = true}),
                sample(6, 4, {.causal = true}), sample(4, 6, {}),
                sample(4, 6, {.lengths = counts({0, 5})}),
                sample(5, 5, {.causal = true, .lengths = counts({2, 5})}),
                sample(6, 6, {.causal = true, .window = 2}, 1),
                sample(4, 5, {.mask = greater(random_mask({2, 1, 4, 5}), 0.4)}),
                sample(4, 5, {.dropout = 0.3}, 1),
                sample(3, 5, {.causal = true, .dropout = 0.3, .need_weights = true}, 1),
                normal_sample({{4, 2, 12}},
                              [](In in) {
                                const auto [q, k, v] = chunk<3>(in[0]);
                                return attention(q, k, v, 2, {.causal = true}).output;
                              }),
                normal_sample(
                    {{3, 2, 8}, {5, 2, 8}},
                    [](In in) {
                      const auto [k, v] = chunk<2>(in[1]);
                      return attention(Columns{in[0]}, k, v, 4, {.lengths = counts({5, 3})}).output;
                    })},
    .wrong = {[] {
                attention(Tensor::zeros({1, 2, 3, 4}), Tensor::zeros({1, 2, 3, 5}),
                          Tensor::zeros({1, 2, 3, 5}));
              },
              [] {
                attention(Tensor::zeros({1, 3, 3, 4}), Tensor::zeros({1, 2, 3, 4}),
                          Tensor::zeros({1, 2, 3, 4}));
              },
              [] {
                const Tensor x = Tensor::zeros({2, 2, 3, 4});
                attention(x, x, x, {.lengths = counts({3, 4})});
              },
              [] {
                const Tensor x = Tensor::zeros({2, 2, 3, 4});
                attention(x, x, x, {.mask = Tensor::zeros({4, 3})});
              },
              [] {
                const Columns x{Tensor::zeros({3, 2, 8})};
                attention(x, x, x, 3);
              }},
}};

}  // namespace
}  // namespace unroll
