#include <unroll/graph/threads.h>
#include <unroll/ops/attention_amx.h>
#include <unroll/ops/attention_block.h>

#include <array>
#include <span>

namespace unroll::detail {
namespace {

/// Memory of one block of queries; those that go together share scores and factors.
template <class T>
struct Forward {
  static constexpr std::int64_t most = QueryBlock<T>::most, tile = QueryBlock<T>::tile;
  T *q = nullptr, *out = nullptr;    ///< [D, most]: queries and results, turned
  T *top = nullptr, *sum = nullptr;  ///< [most]: the largest score so far, and the sum of powers
  T* scores = nullptr;               ///< [tile, most], then weights
  T* factors = nullptr;              ///< [tile, most], of dropout
  Panels q_panels;                   ///< on matrix tiles: columns are queries

  /// Elements of scratch for so many blocks, and in how many pieces.
  static std::int64_t elements(std::int64_t size, std::int64_t blocks) {
    return (blocks * (2 * size + 2) + 2 * tile) * most;
  }
  static std::int64_t pieces(std::int64_t blocks) { return blocks * 4 + 2; }
  static void take(TileScratch<T>& scratch, std::int64_t size, std::span<Forward> blocks) {
    T *scores = scratch.take(tile * most), *factors = scratch.take(tile * most);
    for (Forward& one : blocks)
      one = {scratch.take(size * most),
             scratch.take(size * most),
             scratch.take(most),
             scratch.take(most),
             scores,
             factors,
             Panels()};
  }
};

/// Scores become powers of two below the largest one so far, to which earlier results adapt.
template <class T>
UNROLL_FLATTEN void weigh(const QueryBlock<T>& block, std::int64_t begin, std::int64_t end,
                          const Forward<T>& m) {
  using L = simd::Lanes<T>;
  namespace hn = simd::hn;
  constexpr std::int64_t lanes = L::count, most = QueryBlock<T>::most;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  T top[most], sum[most];
  std::copy_n(m.top, most, top);
  block.for_strips(begin, end, [&](const KeyStrip& strip) {
    T* rows = m.scores + (strip.begin - begin) * most;
    block.hide(strip, rows);
    const std::int64_t keys = strip.end - strip.begin;
    for (std::int64_t v = strip.first; v < strip.last; ++v) {
      L a = L::load(top + v * lanes), b = a;
      std::int64_t j = 0;
      for (; j + 2 <= keys; j += 2) {
        a = hn::Max(a.v, L::load(rows + j * most + v * lanes).v);
        b = hn::Max(b.v, L::load(rows + (j + 1) * most + v * lanes).v);
      }
      if (j < keys) a = hn::Max(a.v, L::load(rows + j * most + v * lanes).v);
      L(hn::Max(a.v, b.v)).store(top + v * lanes);
    }
  });
  for (std::int64_t v = 0; v < block.vectors(); ++v) {
    const L before = L::load(m.top + v * lanes), now = L::load(top + v * lanes);
    now.store(m.top + v * lanes);
    // Nothing visible yet: 0 instead of a difference of infinities.
    const L shift = where<T>(now == L(-infinity), L(0), now);
    shift.store(top + v * lanes);
    const L factor = power_of_two<T>(before - shift);
    (L::load(m.sum + v * lanes) * factor).store(sum + v * lanes);
    if (hn::AllTrue(simd::Tag<T>(), before == now)) continue;
    for (std::int64_t i = 0; i < block.rules.size; ++i) {
      T* p = m.out + i * most + v * lanes;
      (L::load(p) * factor).store(p);
    }
  }
  block.for_strips(begin, end, [&](const KeyStrip& strip) {
    T* rows = m.scores + (strip.begin - begin) * most;
    for (std::int64_t v = strip.first; v < strip.last; ++v) {
      const L shift = L::load(top + v * lanes);
      L total = L::load(sum + v * lanes);
      for (std::int64_t j = 0; j < strip.end - strip.begin; ++j) {
        T* p = rows + j * most + v * lanes;
        const L weight = power_of_two<T>(L::load(p) - shift);
        weight.store(p);
        total = total + weight;
      }
      total.store(sum + v * lanes);
    }
  });
  std::copy_n(sum, most, m.sum);
}

/// Multiplies the weights of a tile by what dropout leaves.
template <class T>
UNROLL_FLATTEN void drop(const QueryBlock<T>& block, std::int64_t begin, std::int64_t end,
                         const Forward<T>& m) {
  block.keep(begin, end, m.factors, QueryBlock<T>::most);
  simd::for_lanes<T>((end - begin) * QueryBlock<T>::most,
                     [&](const auto& at) { at.store(m.scores, at(m.scores) * at(m.factors)); });
}

template <class T>
UNROLL_FLATTEN void start(const QueryBlock<T>& block, const Forward<T>& m) {
  constexpr std::int64_t most = QueryBlock<T>::most;
  const HeadRows<const T>& q = block.in.q;
  const std::int64_t size = block.rules.size;
  if (block.count < most) std::fill_n(m.q, size * most, T(0));
  // Scores count powers of two.
  const simd::Lanes<T> scale(block.rules.scale * log2_e);
  turn(block.count, size, q.at(block.b, block.h) + block.first * q.time, q.time, m.q, most,
       [&](const auto&, simd::Lanes<T> x) { return x * scale; });
  std::fill_n(m.out, size * most, T(0));
  std::fill_n(m.top, most, -std::numeric_limits<T>::infinity());
  std::fill_n(m.sum, most, T(0));
}

template <class T>
UNROLL_FLATTEN void finish(const QueryBlock<T>& block, const Forward<T>& m, const HeadRows<T>& out,
                           T* log_sums) {
  using L = simd::Lanes<T>;
  constexpr std::int64_t most = QueryBlock<T>::most;
  T inverse[most], logs[most];
  simd::for_lanes<T>(most, [&](const auto& at) {
    const L sum = at(m.sum);
    at.store(inverse, where<T>(sum == L(0), L(0), L(1) / sum));
    at.store(logs, where<T>(sum == L(0), L(std::numeric_limits<T>::max()),
                            at(m.top) + log(sum) * L(log2_e)));
  });
  const AttentionRules& r = block.rules;
  std::copy_n(logs, block.count,
              log_sums + (block.b * r.heads + block.h) * r.queries + block.first);
  turn(r.size, block.count, m.out, most, m.q, r.size,
       [&](const auto& at, L x) { return x * at(inverse); });
  block.write_rows(m.q, r.size, out);
}

/// What a tile of keys adds to the results of a block.
template <class T>
void add_tile(const QueryBlock<T>& block, std::int64_t begin, std::int64_t end, const T* k,
              std::int64_t k_step, const T* v, std::int64_t v_step, const Forward<T>& m,
              RowFetch& fetch) {
  constexpr std::int64_t lanes = QueryBlock<T>::lanes, most = QueryBlock<T>::most;
  const std::int64_t size = block.rules.size;
  block.for_strips(begin, end, [&](const KeyStrip& s) {
    multiply<T>({.rows = s.end - s.begin,
                 .depth = size,
                 .vectors = s.last - s.first,
                 .a = k + s.begin * k_step,
                 .a_step = k_step,
                 .b = m.q + s.first * lanes,
                 .b_step = most,
                 .c = m.scores + (s.begin - begin) * most + s.first * lanes,
                 .c_step = most});
    fetch.some();
  });
  weigh(block, begin, end, m);
  if (block.rules.dropout > 0) drop(block, begin, end, m);
  block.for_strips(begin, end, [&](const KeyStrip& s) {
    multiply<T>({.rows = size,
                 .depth = s.end - s.begin,
                 .vectors = s.last - s.first,
                 .a = v + s.begin * v_step,
                 .a_step = v_step,
                 .across = true,
                 .b = m.scores + (s.begin - begin) * most + s.first * lanes,
                 .b_step = most,
                 .c = m.out + s.first * lanes,
                 .c_step = most,
                 .add = true});
    fetch.some();
  });
}

/// What blocks that go together share on matrix tiles: a tile of keys and values, and weights.
struct ForwardPanels {
  static constexpr std::int64_t most = QueryBlock<float>::most, tile = QueryBlock<float>::tile;
  Panels k, v, weights;
  std::int64_t first = -1, keys = 0;  ///< the tile that is laid out

  static std::int64_t elements(std::int64_t size, std::int64_t blocks) {
    return blocks * Panels::elements(most, size) + Panels::elements(tile, size) +
           Panels::elements(size, tile) + Panels::elements(most, tile);
  }
  static std::int64_t pieces(std::int64_t blocks) { return blocks + 3; }
  template <class T>
  ForwardPanels(TileScratch<T>& scratch, std::int64_t size, std::span<Forward<T>> blocks)
      : k(scratch, tile, size), v(scratch, size, tile), weights(scratch, most, tile) {
    for (Forward<T>& one : blocks) one.q_panels = Panels(scratch, most, size);
  }
};

/// The same on matrix tiles, of the tile that begins at `first`.
void add_tile(const QueryBlock<float>& block, std::int64_t first, std::int64_t end, const float* k,
              std::int64_t k_step, const float* v, std::int64_t v_step, ForwardPanels& panels,
              const Forward<float>& m) {
  constexpr std::int64_t most = QueryBlock<float>::most, lanes = QueryBlock<float>::lanes;
  const std::int64_t size = block.rules.size;
  if (panels.first != first) {
    panels.first = first;
    panels.keys = std::min(QueryBlock<float>::tile, block.keys() - first);
    panels.k.pack_left_rows(panels.keys, size, k + first * k_step, k_step);
    panels.v.pack_left_across(size, panels.keys, v + first * v_step, v_step);
  }
  amx::multiply({.rows = end - first,
                 .columns = most,
                 .depth = size,
                 .a = panels.k.get(),
                 .b = m.q_panels.get(),
                 .c = m.scores,
                 .c_step = most});
  weigh(block, first, end, m);
  if (block.rules.dropout > 0) drop(block, first, end, m);
  std::fill(m.scores + (end - first) * most, m.scores + panels.keys * most, 0.0F);
  panels.weights.pack_right_across(block.vectors() * lanes, panels.keys, m.scores, most);
  amx::multiply({.rows = size,
                 .columns = block.vectors() * lanes,
                 .depth = panels.keys,
                 .a = panels.v.get(),
                 .b = panels.weights.get(),
                 .add = true,
                 .c = m.out,
                 .c_step = most});
}

/// How the work is dealt out, by the shapes alone.
template <class T>
struct Pieces {
  std::int64_t pairs, blocks;  ///< of a sequence and a key-value head; blocks of queries of a head
  std::int64_t together;       ///< blocks
  std::int64_t groups;         ///< of as many blocks
  std::int64_t each;           ///< pieces of a pair, of every so many groups
  explicit Pieces(const AttentionRules& r)
      : pairs(r.batch * r.kv_heads),
        blocks((r.queries + QueryBlock<T>::most - 1) / QueryBlock<T>::most),
        // Enough pieces for many threads come first.
        together(std::clamp<std::int64_t>(blocks * pairs / 16, 1, blocks_together(r))),
        groups((blocks + together - 1) / together),
        each(std::min(groups, std::max<std::int64_t>(1, 16 / std::max<std::int64_t>(1, pairs)))) {}
};

/// Elements of scratch that a thread needs.
template <class T>
std::int64_t scratch(const AttentionRules& r, bool packs) {
  const std::int64_t together = Pieces<T>(r).together;
  std::int64_t elements = Forward<T>::elements(r.size, together),
               pieces = Forward<T>::pieces(together);
  if (is_on_amx<T>(r)) {
    elements += ForwardPanels::elements(r.size, together);
    pieces += ForwardPanels::pieces(together);
  } else if (packs) {
    elements += 2 * r.keys * r.size;
    pieces += 2;
  }
  return TileScratch<T>::with_gaps(elements, pieces);
}

/// What is wanted behind the computation of some queries: where results go, and what the next
/// ones read.
template <class T>
void ask_ahead(RowFetch& fetch, const AttentionRules& r, const AttentionInputs<T>& in,
               const HeadRows<T>& out, const QueryRows& now) {
  const std::int64_t group = r.heads / r.kv_heads;
  fetch.clear();
  if (const QueryRows next = now.next(r); next.b < r.batch) {
    if (next.b != now.b || next.h / group != now.h / group)
      for (const HeadRows<const T>* x : {&in.k, &in.v})
        fetch.add(r.keys, r.size, x->at(next.b, next.h / group), x->time);
    fetch.add(next.count(r), r.size, in.q.at(next.b, next.h) + next.first * in.q.time, in.q.time);
  }
  fetch.add(now.count(r), r.size, out.at(now.b, now.h) + now.first * out.time, out.time);
}

template <class T>
void run(const AttentionRules& r, const AttentionInputs<T>& in, HeadRows<T> out, T* log_sums) {
  constexpr std::int64_t most = QueryBlock<T>::most;
  if (r.queries <= 2) return attend_few(r, in, out, log_sums);
  const Pieces<T> p(r);
  const std::int64_t group = r.heads / r.kv_heads;
  const double work =
      static_cast<double>(r.batch * r.heads * r.queries * r.keys) * static_cast<double>(r.size) / 8;
  const bool on_amx = is_on_amx<T>(r);
  // Rows far apart fall into few sets of the caches: those used again and again are put together.
  const bool packs =
      !on_amx && p.blocks * group > 1 && (in.k.time != r.size || in.v.time != r.size);
  ScratchPool<T> pool(scratch<T>(r, packs), ScratchPool<T>::workers(p.pairs * p.each));
  parallel_for(p.pairs * p.each, 1, work, [&](std::int64_t item, std::int64_t) {
    const std::int64_t pair = item / p.each, b = pair / r.kv_heads, kv = pair % r.kv_heads;
    TileScratch<T> scratch(pool);
    std::array<Forward<T>, most_together> memory;
    const auto blocks = std::span(memory).first(static_cast<std::size_t>(p.together));
    Forward<T>::take(scratch, r.size, blocks);
    std::optional<ForwardPanels> panels;
    std::optional<amx::Tiles> tiles;
    RowFetch fetch;
    if (on_amx) panels.emplace(scratch, r.size, blocks), tiles.emplace();
    const T *k = in.k.at(b, kv), *v = in.v.at(b, kv);
    std::int64_t k_step = in.k.time, v_step = in.v.time;
    if (packs) {
      T *keys = scratch.take(r.keys * r.size), *values = scratch.take(r.keys * r.size);
      pack_rows(r.keys, r.size, k, k_step, T(1), keys, r.size);
      pack_rows(r.keys, r.size, v, v_step, T(1), values, r.size);
      k = keys, v = values, k_step = v_step = r.size;
    }
    for (std::int64_t h = kv * group; h < (kv + 1) * group; ++h)
      // Each takes every so many groups, so that causal ones, of which the later cost more, come to
      // the same.
      for (std::int64_t g = item % p.each; g < p.groups; g += p.each) {
        const std::int64_t first = g * p.together, count = std::min(p.together, p.blocks - first);
        const auto block = [&](std::int64_t i) {
          const std::int64_t query = (first + i) * most;
          return QueryBlock<T>{r, in, b, h, query, std::min(most, r.queries - query), on_amx};
        };
        if (!on_amx) ask_ahead(fetch, r, in, out, {b, h, first * most, p.together * most});
        for (std::int64_t i = 0; i < count; ++i) {
          start(block(i), memory[i]);
          if constexpr (std::is_same_v<T, float>)
            if (on_amx) memory[i].q_panels.pack_right_across(most, r.size, memory[i].q, most);
        }
        for_tiles(count, block,
                  [&](std::int64_t i, std::int64_t tile, std::int64_t begin, std::int64_t end) {
                    if constexpr (std::is_same_v<T, float>)
                      if (on_amx)
                        return add_tile(block(i), tile, end, k, k_step, v, v_step, *panels,
                                        memory[i]);
                    add_tile(block(i), begin, end, k, k_step, v, v_step, memory[i], fetch);
                  });
        for (std::int64_t i = 0; i < count; ++i) finish(block(i), memory[i], out, log_sums);
      }
  });
}

template <class T>
std::int64_t workspace(const AttentionRules& r, bool apart) {
  if (r.queries <= 2) return 2 * r.keys;  // scores, of attend_few()
  const Pieces<T> p(r);
  return scratch<T>(r, apart && p.blocks * (r.heads / r.kv_heads) > 1) *
         ScratchPool<T>::workers(p.pairs * p.each);
}

}  // namespace

std::size_t attend_workspace(const AttentionRules& r, bool apart, std::size_t element) {
  return element * static_cast<std::size_t>(element == sizeof(float) ? workspace<float>(r, apart)
                                                                     : workspace<double>(r, apart));
}

void attend(const AttentionRules& rules, const AttentionInputs<float>& in, HeadRows<float> out,
            float* log_sums) {
  run(rules, in, out, log_sums);
}

void attend(const AttentionRules& rules, const AttentionInputs<double>& in, HeadRows<double> out,
            double* log_sums) {
  run(rules, in, out, log_sums);
}

}  // namespace unroll::detail
