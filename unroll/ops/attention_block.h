#pragma once

// The queries that tiled attention treats together, and which keys they see.

#include <unroll/graph/memory.h>
#include <unroll/graph/tensor.h>
#include <unroll/graph/threads.h>
#include <unroll/ops/attention_kernels.h>
#include <unroll/ops/philox.h>
#include <unroll/ops/tiles.h>

#include <array>
#include <cmath>
#include <mutex>

namespace unroll::detail {

/// Keys begin..end, seen by some query of the vectors first..last of a block and by none outside.
struct KeyStrip {
  std::int64_t begin, end, first, last;
  bool whole;  ///< every query of these vectors sees all of them
};

/// Rows of `size` elements to where they lie.
template <class T>
void copy_rows(std::int64_t rows, std::int64_t size, const T* from, std::int64_t from_step, T* to,
               std::int64_t to_step) {
  for (std::int64_t i = 0; i < rows; ++i, from += from_step, to += to_step)
    simd::for_lanes<T>(size, [&](const auto& at) { at.store(to, at(from)); });
}

/// Queries first .. first + count - 1 of head h. Scores are [keys, queries], so that vectors run
/// along queries: sums and maxima over keys are then vertical, and no operand needs turning but q.
template <class T>
struct QueryBlock {
  static constexpr std::int64_t lanes = simd::Lanes<T>::count;
  static constexpr std::int64_t most = 64 > lanes ? 64 : lanes;  ///< queries; a row of scores
  static constexpr std::int64_t tile = 64;                       ///< keys at a time
  static constexpr std::int64_t fine = 16;  ///< keys of a strip where some are hidden

  const AttentionRules& rules;
  const AttentionInputs<T>& in;
  std::int64_t b, h, first, count;
  bool uncut = false;  ///< tiles are one strip each, whatever of them is hidden

  std::int64_t vectors() const { return (count + lanes - 1) / lanes; }
  /// How far a query's position is from its number.
  std::int64_t offset() const { return rules.keys - rules.queries; }
  std::int64_t keys() const {
    return in.lengths == nullptr ? rules.keys
                                 : std::clamp<std::int64_t>(in.lengths[b], 0, rules.keys);
  }
  std::int64_t begin() const {
    return rules.window == 0 ? 0 : std::max<std::int64_t>(0, first + offset() - rules.window + 1);
  }
  std::int64_t end() const {
    return rules.causal ? std::min(keys(), first + count + offset()) : keys();
  }

  /// The block's rows go to where they lie in `to`: whole ones, since rows far apart would push
  /// each other out of the cache if they were written bit by bit.
  void write_rows(const T* rows, std::int64_t wide, const HeadRows<T>& to) const {
    copy_rows(count, rules.size, rows, wide, to.at(b, h) + first * to.time, to.time);
  }

  /// Runs f(strip) for the strips of a tile.
  template <class F>
  void for_strips(std::int64_t begin, std::int64_t end, const F& f) const {
    const std::int64_t last = first + count - 1 + offset();  // the last query's position
    std::int64_t whole_begin = begin, whole_end = end;
    if (rules.causal) whole_end = std::clamp(first + offset(), begin, end);
    if (rules.window > 0) whole_begin = std::clamp(last - rules.window + 1, begin, end);
    if (uncut)
      return f(KeyStrip{begin, end, 0, vectors(), whole_begin == begin && whole_end == end});
    if (whole_begin >= whole_end) whole_begin = whole_end = end;
    fine_strips(begin, whole_begin, f);
    if (whole_begin < whole_end) f(KeyStrip{whole_begin, whole_end, 0, vectors(), true});
    fine_strips(whole_end, end, f);
  }

  /// Scores of a strip, `row` its first key's: -infinity where a query may not see a key.
  void hide(const KeyStrip& strip, T* row) const {
    using L = simd::Lanes<T>;
    const L lowest(-std::numeric_limits<T>::infinity());
    const T* steps = counting();
    // Behind a strip's keys causal queries see all of them.
    const std::int64_t last =
        rules.window > 0
            ? strip.last
            : std::min(strip.last, (strip.end - 1 - first - offset() + lanes - 1) / lanes);
    if (!strip.whole)
      for (std::int64_t j = strip.begin; j < strip.end; ++j)
        for (std::int64_t v = strip.first; v < last; ++v) {
          T* p = row + (j - strip.begin) * most + v * lanes;
          // Keys from a query's position to this one: seen where within -window + 1 .. 0.
          const L behind = L(static_cast<T>(j - first - offset() - v * lanes)) - L::load(steps);
          L score = where<T>(behind > L(0), lowest, L::load(p));
          if (rules.window > 0)
            score = where<T>(behind <= L(static_cast<T>(-rules.window)), lowest, score);
          score.store(p);
        }
    hide_masked(strip.begin, strip.end, row, most);
  }

  /// The same for what the mask hides of keys begin..end, whose rows of scores are `step` apart.
  void hide_masked(std::int64_t begin, std::int64_t end, T* scores, std::int64_t step) const {
    if (in.mask == nullptr) return;
    const auto& along = in.mask_step;
    for (std::int64_t j = begin; j < end; ++j) {
      const T* mask = in.mask + b * along[0] + h * along[1] + first * along[2] + j * along[3];
      T* p = scores + (j - begin) * step;
      for (std::int64_t i = 0; i < count; ++i)
        if (mask[i * along[2]] == 0) p[i] = -std::numeric_limits<T>::infinity();
    }
  }

  /// What dropout multiplies the weights of keys begin..end by, a row of `step` numbers a key;
  /// those of queries that are not there are 0.
  void keep(std::int64_t begin, std::int64_t end, T* factors, std::int64_t step) const {
    const auto threshold = static_cast<std::uint32_t>(rules.dropout * 0x1p32);
    const T scale = static_cast<T>(1 / (1 - rules.dropout));
    constexpr std::int64_t batch = 256;
    std::uint32_t bits[batch];
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t row = (b * rules.heads + h) * rules.queries + first + i;
      for (std::int64_t k = begin; k < end;) {
        const std::uint64_t at = rules.first + static_cast<std::uint64_t>(row * rules.keys + k);
        simd::philox<batch / 4>(rules.seed, at / 4, bits);
        const auto skip = static_cast<std::int64_t>(at % 4);
        const std::int64_t n = std::min(batch - skip, end - k);
        for (std::int64_t j = 0; j < n; ++j)
          factors[(k + j - begin) * step + i] = bits[skip + j] < threshold ? T(0) : scale;
        k += n;
      }
    }
    for (std::int64_t k = 0; k < end - begin; ++k)
      std::fill(factors + k * step + count, factors + (k + 1) * step, T(0));
  }

 private:
  template <class F>
  void fine_strips(std::int64_t begin, std::int64_t end, const F& f) const {
    for (std::int64_t j = begin; j < end; j += fine) {
      KeyStrip strip{j, std::min(j + fine, end), 0, vectors(), false};
      const std::int64_t place = first + offset();  // the first query's position
      if (rules.causal) strip.first = std::max<std::int64_t>(0, (j - place) / lanes);
      if (rules.window > 0)
        strip.last = std::min(strip.last, (strip.end - 2 + rules.window - place) / lanes + 1);
      if (strip.first < strip.last) f(strip);
    }
  }

  // 0, 1, 2, ...
  static const T* counting() {
    static constexpr auto numbers = [] {
      std::array<T, lanes> n{};
      for (std::int64_t i = 0; i < lanes; ++i) n[i] = static_cast<T>(i);
      return n;
    }();
    return numbers.data();
  }
};

/// Blocks that follow each other and go through the keys together: what is read of a tile of keys
/// serves them all before it leaves the cache. Where the keys' side fits there as a whole, each
/// goes by itself.
inline constexpr std::int64_t most_together = 4;
inline std::int64_t blocks_together(const AttentionRules& rules) {
  return rules.keys * rules.size > (1 << 16) ? most_together : 1;
}

/// Runs f(i, k, begin, end) for what queries of block(i) see of the tile of keys that begins at k,
/// i < count; all blocks of a tile one after the other.
template <class B, class F>
void for_tiles(std::int64_t count, const B& block, const F& f) {
  constexpr std::int64_t tile = decltype(block(0))::tile;
  const std::int64_t end = block(count - 1).end();
  for (std::int64_t k = block(0).begin(); k < end; k += tile)
    for (std::int64_t i = 0; i < count; ++i) {
      const auto one = block(i);
      const std::int64_t from = std::max(k, one.begin()), to = std::min(k + tile, one.end());
      if (from < to) f(i, k, from, to);
    }
}

/// Scratch for as many threads as work at a time: there before any of them begins, so that where
/// there is no memory nothing has been written.
template <class T>
class ScratchPool {
 public:
  ScratchPool(std::int64_t elements, std::int64_t workers)
      : shared_(workers > 1), memory_(Tensor::empty({workers * elements}, dtype_of<T>())) {
    for (std::int64_t i = 0; i < workers; ++i)
      free_.push_back(memory_.mutable_ptr<T>() + i * elements);
  }
  /// How many work at a time on so many items.
  static std::int64_t workers(std::int64_t items) {
    return is_alone() ? 1 : std::clamp<std::int64_t>(items, 1, threads());
  }
  T* take() {
    const std::unique_lock lock = held();
    T* const one = free_.back();
    free_.pop_back();
    return one;
  }
  void give_back(T* one) {
    const std::unique_lock lock = held();
    free_.push_back(one);
  }

 private:
  std::unique_lock<std::mutex> held() {
    return shared_ ? std::unique_lock(mutex_) : std::unique_lock(mutex_, std::defer_lock);
  }

  bool shared_;
  Tensor memory_;
  CachedVector<T*> free_;
  std::mutex mutex_;
};

/// One thread's, handed out in pieces.
template <class T>
class TileScratch {
 public:
  explicit TileScratch(ScratchPool<T>& pool) : pool_(pool), first_(pool.take()), next_(first_) {}
  ~TileScratch() { pool_.give_back(first_); }
  TileScratch(const TileScratch&) = delete;
  TileScratch& operator=(const TileScratch&) = delete;

  static constexpr std::int64_t with_gaps(std::int64_t elements, std::int64_t pieces) {
    return (elements + pieces * (gap + 16) + 15) / 16 * 16;
  }
  T* take(std::int64_t elements) {
    T* piece = next_;
    next_ += (elements + 15) / 16 * 16 + gap;
    return piece;
  }

 private:
  // Pieces whose addresses differ by a multiple of 4096 make loads wait for stores to each other.
  static constexpr std::int64_t gap = 80;
  ScratchPool<T>& pool_;
  T* first_;
  T* next_;
};

/// Rows that lie far apart, as those of a head do among others, come from memory one by one, and
/// the processor cannot foresee them. What is wanted next is asked for while tiles are multiplied,
/// some lines at a time: all at once they would keep what is wanted now waiting.
class RowFetch {
 public:
  /// Forgets what has not been asked for.
  void clear() { count_ = 0; }
  /// Rows of `size` elements; those that follow each other need no help.
  template <class T>
  void add(std::int64_t rows, std::int64_t size, const T* first, std::int64_t step) {
    if (step != size && rows > 0 && count_ < all_.size())
      all_[count_++] = {reinterpret_cast<const std::byte*>(first),
                        step * static_cast<std::int64_t>(sizeof(T)),
                        size * static_cast<std::int64_t>(sizeof(T)), rows};
  }
  void some() {
    constexpr std::int64_t line = 64, most = 48;
    for (std::int64_t lines = most; lines > 0 && count_ > 0;) {
      Rows& rows = all_[count_ - 1];
      const std::int64_t lines_a_row = (rows.bytes + line - 1) / line, step = rows.step,
                         count = std::min(rows.left, (lines + lines_a_row - 1) / lines_a_row);
      const std::byte* row = rows.next;
      for (std::int64_t i = 0; i < count; ++i, row += step)
        for (std::int64_t j = 0; j < lines_a_row; ++j) __builtin_prefetch(row + j * line, 0, 2);
      lines -= count * lines_a_row;
      rows.next = row;
      if ((rows.left -= count) == 0) --count_;
    }
  }

 private:
  struct Rows {
    const std::byte* next;
    std::int64_t step, bytes, left;
  };
  std::array<Rows, 8> all_;  // a way back has as many
  std::size_t count_ = 0;
};

/// Queries of one head that are computed together, from the first one on at most `most`.
struct QueryRows {
  std::int64_t b, h, first, most;
  std::int64_t count(const AttentionRules& r) const { return std::min(most, r.queries - first); }
  /// Those behind them; b is r.batch where there are none.
  QueryRows next(const AttentionRules& r) const {
    if (first + most < r.queries) return {b, h, first + most, most};
    if (h + 1 < r.heads) return {b, h + 1, 0, most};
    return {b + 1, 0, 0, most};
  }
};

/// Rows of `size` elements, `step` apart, to rows `wide` apart; behind each zeros.
template <class T>
void pack_rows(std::int64_t rows, std::int64_t size, const T* from, std::int64_t step, T scale,
               T* to, std::int64_t wide) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const T* p = from + i * step;
    T* q = to + i * wide;
    const simd::Lanes<T> factor(scale);
    simd::for_lanes<T>(size, [&](const auto& at) { at.store(q, at(p) * factor); });
    std::fill(q + size, q + wide, T(0));
  }
}

}  // namespace unroll::detail
