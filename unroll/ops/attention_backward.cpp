#include <unroll/graph/threads.h>
#include <unroll/ops/attention_amx.h>
#include <unroll/ops/attention_block.h>

#include <array>
#include <span>

namespace unroll::detail {
namespace {

/// Keys, values and their gradients, rows of whole vectors.
template <class T>
struct KeySide {
  const T *k = nullptr, *v = nullptr;
  T *dk = nullptr, *dv = nullptr;
  std::int64_t k_step = 0, v_step = 0, dk_step = 0, dv_step = 0;
};

/// Memory of one block of queries; those that go together share what is of a tile.
template <class T>
struct Backward {
  static constexpr std::int64_t most = QueryBlock<T>::most, tile = QueryBlock<T>::tile;
  std::int64_t wide = 0;                       ///< D rounded up to whole vectors
  T *q_turned = nullptr, *g_turned = nullptr;  ///< [D, most]: queries, gradients of results
  T *q = nullptr, *g = nullptr;                ///< [most, wide]: the same
  T* dq = nullptr;                             ///< [D, most]
  T *log_sums = nullptr, *dots = nullptr;   ///< [most]: of a query; its result times its gradient
  T *weights = nullptr, *scores = nullptr;  ///< [tile, most]: weights, and gradients of scores
  T* factors = nullptr;                     ///< [tile, most], of dropout

  static std::int64_t rounded(std::int64_t size) {
    constexpr std::int64_t lanes = QueryBlock<T>::lanes;
    return (size + lanes - 1) / lanes * lanes;
  }
  /// Elements of scratch for so many blocks, and in how many pieces.
  static std::int64_t elements(std::int64_t size, std::int64_t blocks) {
    return (blocks * (3 * size + 2 * rounded(size) + 2) + 3 * tile) * most;
  }
  static std::int64_t pieces(std::int64_t blocks) { return blocks * 7 + 3; }
  static void take(TileScratch<T>& scratch, std::int64_t size, std::span<Backward> blocks) {
    const std::int64_t wide = rounded(size);
    T *weights = scratch.take(tile * most), *scores = scratch.take(tile * most),
      *factors = scratch.take(tile * most);
    for (Backward& one : blocks)
      one = {.wide = wide,
             .q_turned = scratch.take(size * most),
             .g_turned = scratch.take(size * most),
             .q = scratch.take(most * wide),
             .g = scratch.take(most * wide),
             .dq = scratch.take(size * most),
             .log_sums = scratch.take(most),
             .dots = scratch.take(most),
             .weights = weights,
             .scores = scores,
             .factors = factors};
  }
};

template <class T>
UNROLL_FLATTEN void start(const QueryBlock<T>& block, const AttentionResults<T>& results,
                          const Backward<T>& m) {
  using L = simd::Lanes<T>;
  constexpr std::int64_t most = QueryBlock<T>::most;
  const AttentionRules& r = block.rules;
  const std::int64_t size = r.size, n = block.count;
  const auto rows = [&](const HeadRows<const T>& x) {
    return x.at(block.b, block.h) + block.first * x.time;
  };
  const HeadRows<const T>&q = block.in.q, &g = results.grad, &out = results.out;
  if (n < most) {
    std::fill_n(m.q_turned, size * most, T(0));
    std::fill_n(m.g_turned, size * most, T(0));
  }
  // Rows far apart are read once.
  pack_rows(n, size, rows(q), q.time, static_cast<T>(r.scale), m.q, m.wide);
  pack_rows(n, size, rows(g), g.time, T(1), m.g, m.wide);
  const L scale(log2_e);
  turn(n, size, m.q, m.wide, m.q_turned, most, [&](const auto&, L x) { return x * scale; });
  turn(n, size, m.g, m.wide, m.g_turned, most, [&](const auto&, L x) { return x; });
  std::fill(m.q + n * m.wide, m.q + most * m.wide, T(0));
  std::fill(m.g + n * m.wide, m.g + most * m.wide, T(0));
  std::fill_n(m.dq, size * most, T(0));
  // No weights and no gradients where there is no query.
  std::fill_n(m.log_sums, most, std::numeric_limits<T>::max());
  std::fill_n(m.dots, most, T(0));
  std::copy_n(results.log_sums + (block.b * r.heads + block.h) * r.queries + block.first, n,
              m.log_sums);
  for (std::int64_t i = 0; i < n; ++i) {
    const T *a = rows(out) + i * out.time, *b = m.g + i * m.wide;
    L sum(0);
    simd::for_lanes<T>(size, [&](const auto& at) { sum = sum + at(a) * at(b); });
    m.dots[i] = simd::hn::GetLane(simd::hn::SumOfLanes(simd::Tag<T>(), sum.v));
  }
}

/// From scores and gradients of weights to weights and gradients of scores.
template <class T>
UNROLL_FLATTEN void derive(const QueryBlock<T>& block, std::int64_t begin, std::int64_t end,
                           const Backward<T>& m) {
  using L = simd::Lanes<T>;
  constexpr std::int64_t lanes = L::count, most = QueryBlock<T>::most;
  const bool drops = block.rules.dropout > 0;
  if (drops) block.keep(begin, end, m.factors, QueryBlock<T>::most);
  block.for_strips(begin, end, [&](const KeyStrip& strip) {
    const std::int64_t row = (strip.begin - begin) * most;
    block.hide(strip, m.weights + row);
    for (std::int64_t v = strip.first; v < strip.last; ++v) {
      const L log_sum = L::load(m.log_sums + v * lanes), dot = L::load(m.dots + v * lanes);
      for (std::int64_t j = 0; j < strip.end - strip.begin; ++j) {
        const std::int64_t at = row + j * most + v * lanes;
        const L weight = power_of_two<T>(L::load(m.weights + at) - log_sum);
        const L grad = L::load(m.scores + at);
        if (drops) {
          const L factor = L::load(m.factors + at);
          (weight * factor).store(m.weights + at);
          (weight * (grad * factor - dot)).store(m.scores + at);
        } else {
          weight.store(m.weights + at);
          (weight * (grad - dot)).store(m.scores + at);
        }
      }
    }
  });
}

template <class T>
UNROLL_FLATTEN void finish(const QueryBlock<T>& block, const Backward<T>& m,
                           const HeadRows<T>& dq) {
  const simd::Lanes<T> scale(block.rules.scale);
  turn(block.rules.size, block.count, m.dq, QueryBlock<T>::most, m.q, m.wide,
       [&](const auto&, simd::Lanes<T> x) { return x * scale; });
  block.write_rows(m.q, m.wide, dq);
}

/// What a tile of keys adds to the gradients of a block's queries, and gets from these.
template <class T>
void add_tile(const QueryBlock<T>& block, std::int64_t begin, std::int64_t end,
              const KeySide<T>& side, const Backward<T>& m, RowFetch& fetch) {
  constexpr std::int64_t lanes = QueryBlock<T>::lanes, most = QueryBlock<T>::most;
  const std::int64_t size = block.rules.size;
  const auto run = [&fetch](const TileProduct<T>& product) {
    multiply(product);
    fetch.some();
  };
  block.for_strips(begin, end, [&](const KeyStrip& s) {
    const std::int64_t at = (s.begin - begin) * most + s.first * lanes;
    TileProduct<T> product{.rows = s.end - s.begin,
                           .depth = size,
                           .vectors = s.last - s.first,
                           .a = side.k + s.begin * side.k_step,
                           .a_step = side.k_step,
                           .b = m.q_turned + s.first * lanes,
                           .b_step = most,
                           .c = m.weights + at,
                           .c_step = most};
    run(product);
    product.a = side.v + s.begin * side.v_step;
    product.a_step = side.v_step;
    product.b = m.g_turned + s.first * lanes;
    product.c = m.scores + at;
    run(product);
  });
  derive(block, begin, end, m);
  block.for_strips(begin, end, [&](const KeyStrip& s) {
    const std::int64_t at = (s.begin - begin) * most + s.first * lanes;
    TileProduct<T> product{.rows = s.end - s.begin,
                           .depth = (s.last - s.first) * lanes,
                           .vectors = m.wide / lanes,
                           .a = m.weights + at,
                           .a_step = most,
                           .b = m.g + s.first * lanes * m.wide,
                           .b_step = m.wide,
                           .c = side.dv + s.begin * side.dv_step,
                           .c_step = side.dv_step,
                           .add = true};
    run(product);
    product.a = m.scores + at;
    product.b = m.q + s.first * lanes * m.wide;
    product.c = side.dk + s.begin * side.dk_step;
    product.c_step = side.dk_step;
    run(product);
    run({.rows = size,
         .depth = s.end - s.begin,
         .vectors = s.last - s.first,
         .a = side.k + s.begin * side.k_step,
         .a_step = side.k_step,
         .across = true,
         .b = m.scores + at,
         .b_step = most,
         .c = m.dq + s.first * lanes,
         .c_step = most,
         .add = true});
  });
}

/// On matrix tiles: the operands that a block has, of all its products.
struct BlockPanels {
  Panels q_columns, g_columns;  ///< columns are queries
  Panels q_depth, g_depth;      ///< queries are what is summed over

  static constexpr std::int64_t most = QueryBlock<float>::most;
  static std::int64_t elements(std::int64_t size) {
    return 2 * (Panels::elements(most, size) + Panels::elements(size, most));
  }
  static constexpr std::int64_t pieces = 4;
  BlockPanels() = default;
  template <class T>
  BlockPanels(TileScratch<T>& scratch, std::int64_t size)
      : q_columns(scratch, most, size),
        g_columns(scratch, most, size),
        q_depth(scratch, size, most),
        g_depth(scratch, size, most) {}

  void pack(const QueryBlock<float>& block, const Backward<float>& m) const {
    const std::int64_t size = block.rules.size,
                       queries = block.vectors() * QueryBlock<float>::lanes;
    q_columns.pack_right_across(most, size, m.q_turned, most);
    g_columns.pack_right_across(most, size, m.g_turned, most);
    q_depth.pack_right_across(size, queries, m.q, m.wide);
    g_depth.pack_right_across(size, queries, m.g, m.wide);
  }
};

/// And what blocks that go together share: a tile of keys and values, and the matrix of the moment.
struct TilePanels {
  static constexpr std::int64_t most = QueryBlock<float>::most, tile = QueryBlock<float>::tile;
  Panels k, v, k_turned, weights;
  std::int64_t first = -1, keys = 0;  ///< the tile that is laid out

  static std::int64_t elements(std::int64_t size) {
    return 2 * Panels::elements(tile, size) + Panels::elements(size, tile) +
           Panels::elements(most, tile);
  }
  static constexpr std::int64_t pieces = 4;
  template <class T>
  TilePanels(TileScratch<T>& scratch, std::int64_t size)
      : k(scratch, tile, size),
        v(scratch, tile, size),
        k_turned(scratch, size, tile),
        weights(scratch, most, tile) {}

  void pack(const QueryBlock<float>& block, std::int64_t tile_begin, const KeySide<float>& side) {
    if (first == tile_begin) return;
    first = tile_begin;
    keys = std::min(tile, block.keys() - first);
    const std::int64_t size = block.rules.size;
    const float *k_rows = side.k + first * side.k_step, *v_rows = side.v + first * side.v_step;
    k.pack_left_rows(keys, size, k_rows, side.k_step);
    v.pack_left_rows(keys, size, v_rows, side.v_step);
    k_turned.pack_left_across(size, keys, k_rows, side.k_step);
  }
};

/// The same as above on matrix tiles, of the tile that begins at `first`.
void add_tile(const QueryBlock<float>& block, std::int64_t first, std::int64_t end,
              const KeySide<float>& side, TilePanels& shared, const BlockPanels& own,
              const Backward<float>& m) {
  constexpr std::int64_t most = QueryBlock<float>::most;
  const std::int64_t size = block.rules.size, keys = end - first,
                     queries = block.vectors() * QueryBlock<float>::lanes;
  shared.pack(block, first, side);
  amx::Product scores{.rows = keys,
                      .columns = queries,
                      .depth = size,
                      .a = shared.k.get(),
                      .b = own.q_columns.get(),
                      .c = m.weights,
                      .c_step = most};
  amx::multiply(scores);
  scores.a = shared.v.get();
  scores.b = own.g_columns.get();
  scores.c = m.scores;
  amx::multiply(scores);
  derive(block, first, end, m);
  const Panels& weights = shared.weights;
  const auto add_keys = [&](const float* left, const Panels& right, float* to, std::int64_t step) {
    weights.pack_left_rows(keys, queries, left, most);
    amx::multiply({.rows = keys,
                   .columns = size,
                   .depth = queries,
                   .a = weights.get(),
                   .b = right.get(),
                   .add = true,
                   .c = to + first * step,
                   .c_step = step});
  };
  add_keys(m.weights, own.g_depth, side.dv, side.dv_step);
  add_keys(m.scores, own.q_depth, side.dk, side.dk_step);
  std::fill(m.scores + keys * most, m.scores + shared.keys * most, 0.0F);
  weights.pack_right_across(queries, shared.keys, m.scores, most);
  amx::multiply({.rows = size,
                 .columns = queries,
                 .depth = shared.keys,
                 .a = shared.k_turned.get(),
                 .b = weights.get(),
                 .add = true,
                 .c = m.dq,
                 .c_step = most});
}

/// Elements of scratch that a thread needs, with so many copies of the keys' side.
template <class T>
std::int64_t scratch(const AttentionRules& r, std::int64_t together, std::int64_t copies) {
  std::int64_t elements = Backward<T>::elements(r.size, together) +
                          copies * r.keys * Backward<T>::rounded(r.size),
               pieces = Backward<T>::pieces(together) + copies;
  if (is_on_amx<T>(r)) {
    elements += together * BlockPanels::elements(r.size) + TilePanels::elements(r.size);
    pieces += together * BlockPanels::pieces + TilePanels::pieces;
  }
  return TileScratch<T>::with_gaps(elements, pieces);
}

/// What is wanted behind the computation of some queries: where results go, and what the next
/// ones read.
template <class T>
void ask_ahead(RowFetch& fetch, const AttentionRules& r, const AttentionInputs<T>& in,
               const AttentionResults<T>& results, const AttentionGrads<T>& grads,
               const QueryRows& now) {
  const std::int64_t group = r.heads / r.kv_heads;
  const auto ask_keys = [&](const auto& x, const QueryRows& of) {
    fetch.add(r.keys, r.size, x.at(of.b, of.h / group), x.time);
  };
  fetch.clear();
  const QueryRows next = now.next(r);
  if (const bool last = next.b != now.b || next.h / group != now.h / group; last) {
    if (next.b < r.batch) ask_keys(in.k, next), ask_keys(in.v, next);
    ask_keys(grads.k, now), ask_keys(grads.v, now);
  }
  if (next.b < r.batch)
    for (const HeadRows<const T>* x : {&in.q, &results.grad, &results.out})
      fetch.add(next.count(r), r.size, x->at(next.b, next.h) + next.first * x->time, x->time);
  fetch.add(now.count(r), r.size, grads.q.at(now.b, now.h) + now.first * grads.q.time,
            grads.q.time);
}

template <class T>
void run(const AttentionRules& r, const AttentionInputs<T>& in, const AttentionResults<T>& results,
         const AttentionGrads<T>& grads) {
  constexpr std::int64_t most = QueryBlock<T>::most;
  const std::int64_t blocks = (r.queries + most - 1) / most, group = r.heads / r.kv_heads;
  const std::int64_t together = std::min(blocks, blocks_together(r));
  const double work =
      static_cast<double>(r.batch * r.heads * r.queries * r.keys) * static_cast<double>(r.size) / 3;
  const bool on_amx = is_on_amx<T>(r);
  const std::int64_t wide = Backward<T>::rounded(r.size), all = r.keys * wide;
  // Rows that are apart, or no whole vectors, are worked on in a copy.
  const auto apart = [&](std::int64_t step) { return step != r.size || wide != r.size; };
  const bool copies[] = {!on_amx && apart(in.k.time), !on_amx && apart(in.v.time),
                         apart(grads.k.time), apart(grads.v.time)};
  ScratchPool<T> pool(
      scratch<T>(r, together, std::count(std::begin(copies), std::end(copies), true)),
      ScratchPool<T>::workers(r.batch * r.kv_heads));
  // The gradients of a key-value head grow from block to block: one piece has them all.
  parallel_for(r.batch * r.kv_heads, 1, work, [&](std::int64_t pair, std::int64_t) {
    const std::int64_t b = pair / r.kv_heads, kv = pair % r.kv_heads;
    TileScratch<T> scratch(pool);
    std::array<Backward<T>, most_together> memory;
    Backward<T>::take(scratch, r.size, std::span(memory).first(together));
    std::optional<TilePanels> shared;
    std::array<BlockPanels, most_together> own;
    std::optional<amx::Tiles> tiles;
    RowFetch fetch;
    if (on_amx) {
      shared.emplace(scratch, r.size);
      for (std::int64_t i = 0; i < together; ++i) own[i] = BlockPanels(scratch, r.size);
      tiles.emplace();
    }
    KeySide<T> side{in.k.at(b, kv), in.v.at(b, kv), grads.k.at(b, kv), grads.v.at(b, kv),
                    in.k.time,      in.v.time,      grads.k.time,      grads.v.time};
    const auto copy = [&](const T*& rows, std::int64_t& step) {
      T* to = scratch.take(all);
      pack_rows(r.keys, r.size, rows, step, T(1), to, wide);
      rows = to, step = wide;
    };
    const auto instead = [&](T*& rows, std::int64_t& step) {
      rows = scratch.take(all), step = wide;
    };
    if (copies[0]) copy(side.k, side.k_step);
    if (copies[1]) copy(side.v, side.v_step);
    if (copies[2]) instead(side.dk, side.dk_step);
    if (copies[3]) instead(side.dv, side.dv_step);
    std::fill_n(side.dk, all, T(0));
    std::fill_n(side.dv, all, T(0));
    for (std::int64_t h = kv * group; h < (kv + 1) * group; ++h)
      for (std::int64_t first = 0; first < blocks; first += together) {
        const std::int64_t count = std::min(together, blocks - first);
        const auto block = [&](std::int64_t i) {
          const std::int64_t query = (first + i) * most;
          return QueryBlock<T>{r, in, b, h, query, std::min(most, r.queries - query), on_amx};
        };
        if (!on_amx) ask_ahead(fetch, r, in, results, grads, {b, h, first * most, together * most});
        for (std::int64_t i = 0; i < count; ++i) {
          start(block(i), results, memory[i]);
          if constexpr (std::is_same_v<T, float>)
            if (on_amx) own[i].pack(block(i), memory[i]);
        }
        for_tiles(count, block,
                  [&](std::int64_t i, std::int64_t tile, std::int64_t begin, std::int64_t end) {
                    if constexpr (std::is_same_v<T, float>)
                      if (on_amx)
                        return add_tile(block(i), tile, end, side, *shared, own[i], memory[i]);
                    add_tile(block(i), begin, end, side, memory[i], fetch);
                  });
        for (std::int64_t i = 0; i < count; ++i) finish(block(i), memory[i], grads.q);
      }
    const auto write = [&](const T* rows, const HeadRows<T>& to) {
      copy_rows(r.keys, r.size, rows, wide, to.at(b, kv), to.time);
    };
    if (copies[2]) write(side.dk, grads.k);
    if (copies[3]) write(side.dv, grads.v);
  });
}

template <class T>
std::int64_t workspace(const AttentionRules& r, bool apart) {
  const std::int64_t blocks = (r.queries + QueryBlock<T>::most - 1) / QueryBlock<T>::most,
                     together = std::min(blocks, blocks_together(r));
  const bool copies = apart || Backward<T>::rounded(r.size) != r.size;
  return scratch<T>(r, together, copies ? (is_on_amx<T>(r) ? 2 : 4) : 0) *
         ScratchPool<T>::workers(r.batch * r.kv_heads);
}

}  // namespace

std::size_t attend_backward_workspace(const AttentionRules& r, bool apart, std::size_t element) {
  return element * static_cast<std::size_t>(element == sizeof(float) ? workspace<float>(r, apart)
                                                                     : workspace<double>(r, apart));
}

void attend_backward(const AttentionRules& rules, const AttentionInputs<float>& in,
                     const AttentionResults<float>& results, const AttentionGrads<float>& grads) {
  run(rules, in, results, grads);
}

void attend_backward(const AttentionRules& rules, const AttentionInputs<double>& in,
                     const AttentionResults<double>& results, const AttentionGrads<double>& grads) {
  run(rules, in, results, grads);
}

}  // namespace unroll::detail
