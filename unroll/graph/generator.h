#pragma once

#include <unroll/graph/tensor.h>

#include <array>
#include <cstdint>

namespace unroll {

/// Counter-based random numbers (Philox4x32-10; Salmon et al., "Parallel random numbers: as easy
/// as 1, 2, 3", 2011). A value: a copy draws the same numbers again. The n-th number depends on
/// seed and n alone, so the bits are the same whatever the thread count.
class Generator {
 public:
  explicit Generator(std::uint64_t seed = 0) : seed_(seed) {}
  /// Seeded by the system: other numbers in every run.
  static Generator random();

  std::uint64_t seed() const { return seed_; }
  std::uint64_t position() const { return position_; }
  /// Continues where a generator of this seed stood at `position`, as for resuming a run.
  void seek(std::uint64_t position) { position_ = position; }

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

  /// Reserves `count` numbers and returns the position of the first, where a block begins.
  std::uint64_t reserve(std::uint64_t count) {
    const std::uint64_t first = (position_ + 3) / 4 * 4;
    position_ = first + (count + 3) / 4 * 4;
    return first;
  }

  /// The four numbers at block `index` of the stream of `seed`.
  static std::array<std::uint32_t, 4> block(std::uint64_t seed, std::uint64_t index);

 private:
  std::uint64_t seed_;
  std::uint64_t position_ = 0;  // of the next 32-bit number
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
