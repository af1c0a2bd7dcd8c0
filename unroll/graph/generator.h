#pragma once

#include <unroll/graph/tensor.h>

#include <array>
#include <cstdint>
#include <memory>

namespace unroll {

/// A place in a stream of random numbers.
struct RandomPosition {
  std::uint64_t seed = 0;
  std::uint64_t next = 0;  ///< of the stream's 32-bit numbers

  /// Moves past `count` numbers from where a block begins, and tells where they are.
  RandomPosition reserve(std::uint64_t count) {
    const std::uint64_t first = (next + 3) / 4 * 4;
    next = first + (count + 3) / 4 * 4;
    return {seed, first};
  }
};

class Draw;

/// Counter-based random numbers (Philox4x32-10; Salmon et al., "Parallel random numbers: as easy
/// as 1, 2, 3", 2011). A value: a copy draws the same numbers again. The n-th number depends on
/// seed and n alone, so the bits are the same whatever the thread count. While a function is
/// traced, only generators from outside and those made in it draw: not its copies, which would be
/// made anew in each call and once for all runs.
class Generator {
 public:
  explicit Generator(std::uint64_t seed = 0);
  Generator(const Generator& other);
  Generator& operator=(const Generator& other);
  /// Seeded by the system: other numbers in every run.
  static Generator random();

  std::uint64_t seed() const { return at_->seed; }
  std::uint64_t position() const { return at_->next; }
  /// Continues where a generator of this seed stood at `position`, as for resuming a run.
  void seek(std::uint64_t position) { at_->next = position; }

  std::uint32_t next();
  /// In [0, 1).
  double uniform();
  /// In [0, bound); bound > 0.
  std::int64_t below(std::int64_t bound);
  double normal();

  Tensor uniform(const Shape& shape, double low, double high, DType dtype = DType::f32);
  Tensor normal(const Shape& shape, double mean, double deviation, DType dtype = DType::f32);
  /// A random order of 0..n-1.
  std::vector<std::int64_t> permutation(std::int64_t n);

  /// Reserves `count` numbers for an op that is Op::random(). While a Program is traced it reserves
  /// nothing: each run of that does, in the order of the calls, from this very generator, so that a
  /// run draws what recording would draw. Nothing moves in a dry run.
  Draw draw(std::uint64_t count);

  /// The four numbers at block `index` of the stream of `seed`.
  static std::array<std::uint32_t, 4> block(std::uint64_t seed, std::uint64_t index);

 private:
  // Is a function traced here that did not make it?
  bool from_outside() const;

  std::shared_ptr<RandomPosition> at_;  // this generator's alone, but for the programs that draw
  // The trace in which it was made, which would make the same one in every run; 0: none.
  std::uint64_t made_in_;
  std::uint64_t copied_in_ = 0;  // the trace in which it was copied from another; 0: none
  std::uint64_t cached_block_ = ~0ull;
  std::array<std::uint32_t, 4> cache_{};
};

/// Lets a layer be built with a generator (`Linear layer(options, generator)`) or without one.
class GeneratorRef {
 public:
  GeneratorRef() : own_(Generator::random()) {}
  GeneratorRef(Generator& generator) : given_(&generator) {}  // NOLINT: meant to convert
  Generator& operator*() { return given_ != nullptr ? *given_ : own_; }
  Generator* operator->() { return &**this; }

 private:
  Generator* given_ = nullptr;
  Generator own_;
};

}  // namespace unroll
