#pragma once

#include <unroll/ops/simd.h>

#include <cstdint>

namespace unroll::simd {

/// Generator::block for Blocks indices from `first` on, a vector of them at a time: 4 * Blocks
/// numbers in the order of the stream. Blocks must be a multiple of the lanes.
template <std::int64_t Blocks>
void philox(std::uint64_t seed, std::uint64_t first, std::uint32_t* out) {
  const hn::ScalableTag<std::uint64_t> d;
  const hn::Repartition<std::uint32_t, decltype(d)> words;
  using V = hn::Vec<decltype(d)>;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  // Each lane holds one 32-bit word; what gathers in its upper half is never looked at.
  const auto product = [&](V a, std::uint32_t b) {
    return hn::MulEven(hn::BitCast(words, a), hn::Set(words, b));
  };
  for (std::int64_t block = 0; block < Blocks; block += lanes) {
    const V index = hn::Iota(d, first + static_cast<std::uint64_t>(block));
    V x0 = index, x1 = hn::ShiftRight<32>(index), x2 = hn::Zero(d), x3 = hn::Zero(d);
    auto key0 = static_cast<std::uint32_t>(seed);
    auto key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const V a = product(x0, 0xD2511F53u), b = product(x2, 0xCD9E8D57u);
      x0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(b), x1), hn::Set(d, std::uint64_t{key0}));
      x1 = b;
      x2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(a), x3), hn::Set(d, std::uint64_t{key1}));
      x3 = a;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    const V low = hn::Set(d, std::uint64_t{0xFFFFFFFFu});
    const V pairs01 = hn::Or(hn::And(x0, low), hn::ShiftLeft<32>(x1));
    const V pairs23 = hn::Or(hn::And(x2, low), hn::ShiftLeft<32>(x3));
    // Through memory of the vectors' own type: `out` holds 32-bit words.
    alignas(64) std::uint64_t both[2 * hn::MaxLanes(d)];
    hn::StoreInterleaved2(pairs01, pairs23, d, both);
    __builtin_memcpy(out + 4 * block, both, static_cast<std::size_t>(16 * lanes));
  }
}

}  // namespace unroll::simd
