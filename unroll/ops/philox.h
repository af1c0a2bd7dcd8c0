#pragma once

#include <unroll/graph/generator.h>
#include <unroll/ops/simd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace unroll::simd {

template <std::int64_t Blocks, class D>
void philox_vectors(D d, std::uint64_t seed, std::uint64_t first, std::uint32_t* out) {
  const hn::Repartition<std::uint32_t, decltype(d)> words;
  using V = hn::Vec<decltype(d)>;
  constexpr auto lanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  constexpr int chains = 4;  // rounds wait for the one before: several run side by side
  static_assert(Blocks % (chains * lanes) == 0);
  // Each lane holds one 32-bit word; what gathers in its upper half is never looked at.
  const auto product = [&](V a, std::uint32_t b) {
    return hn::MulEven(hn::BitCast(words, a), hn::Set(words, b));
  };
  for (std::int64_t block = 0; block < Blocks; block += chains * lanes) {
    V x0[chains], x1[chains], x2[chains], x3[chains];
    for (int c = 0; c < chains; ++c) {
      x0[c] = hn::Iota(d, first + static_cast<std::uint64_t>(block + c * lanes));
      x1[c] = hn::ShiftRight<32>(x0[c]);
      x2[c] = x3[c] = hn::Zero(d);
    }
    auto key0 = static_cast<std::uint32_t>(seed);
    auto key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const V k0 = hn::Set(d, std::uint64_t{key0}), k1 = hn::Set(d, std::uint64_t{key1});
      for (int c = 0; c < chains; ++c) {
        const V a = product(x0[c], 0xD2511F53u), b = product(x2[c], 0xCD9E8D57u);
        x0[c] = hn::Xor(hn::Xor(hn::ShiftRight<32>(b), x1[c]), k0);
        x1[c] = b;
        x2[c] = hn::Xor(hn::Xor(hn::ShiftRight<32>(a), x3[c]), k1);
        x3[c] = a;
      }
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    const V low = hn::Set(d, std::uint64_t{0xFFFFFFFFu});
    // Through memory of the vectors' own type: `out` holds 32-bit words.
    alignas(64) std::uint64_t pairs[chains * 2 * lanes];
    for (int c = 0; c < chains; ++c)
      hn::StoreInterleaved2(hn::Or(hn::And(x0[c], low), hn::ShiftLeft<32>(x1[c])),
                            hn::Or(hn::And(x2[c], low), hn::ShiftLeft<32>(x3[c])), d,
                            pairs + c * 2 * lanes);
    std::memcpy(out + 4 * block, pairs, sizeof(pairs));
  }
}

/// Generator::block for Blocks indices from `first` on: 4 * Blocks numbers in the order of the
/// stream. Blocks must be a multiple of 4 vectors' lanes.
template <std::int64_t Blocks, class Word = std::uint64_t>
void philox(std::uint64_t seed, std::uint64_t first, std::uint32_t* out) {
  const hn::ScalableTag<Word> d;
  if constexpr (hn::MaxLanes(d) == 1) {  // no vectors on this target
    for (std::uint64_t block = 0; block < Blocks; ++block) {
      const auto numbers = Generator::block(seed, first + block);
      std::copy(numbers.begin(), numbers.end(), out + 4 * block);
    }
  } else {
    philox_vectors<Blocks>(d, seed, first, out);
  }
}

}  // namespace unroll::simd
