#include <unroll/graph/draw.h>
#include <unroll/graph/dry_run.h>
#include <unroll/graph/tape.h>

#include <cmath>
#include <numbers>
#include <numeric>
#include <random>

namespace unroll {

std::array<std::uint32_t, 4> Generator::block(std::uint64_t seed, std::uint64_t index) {
  std::array<std::uint32_t, 4> x{static_cast<std::uint32_t>(index),
                                 static_cast<std::uint32_t>(index >> 32), 0, 0};
  auto key0 = static_cast<std::uint32_t>(seed);
  auto key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = 0xD2511F53ull * x[0];
    const std::uint64_t b = 0xCD9E8D57ull * x[2];
    x = {static_cast<std::uint32_t>(b >> 32) ^ x[1] ^ key0, static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ x[3] ^ key1, static_cast<std::uint32_t>(a)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return x;
}

namespace {

bool tracing() { return Tape::current() != nullptr && Tape::current()->traces(); }

// The tape that traces here, 0 where none does.
std::uint64_t trace_id() { return tracing() ? Tape::current()->id() : 0; }

}  // namespace

Generator::Generator(std::uint64_t seed)
    : at_(std::make_shared<RandomPosition>(RandomPosition{seed, 0})), made_in_(trace_id()) {}

Generator::Generator(const Generator& other)
    : at_(std::make_shared<RandomPosition>(*other.at_)),
      made_in_(other.made_in_),
      copied_in_(trace_id()) {}

Generator& Generator::operator=(const Generator& other) {
  *at_ = *other.at_;
  cached_block_ = ~0ull;
  return *this;
}

Generator Generator::random() {
  std::random_device device;
  return Generator((static_cast<std::uint64_t>(device()) << 32) | device());
}

bool Generator::from_outside() const {
  const std::uint64_t trace = trace_id();
  if (trace == 0 || trace == made_in_) return false;
  if (trace == copied_in_)
    fail("generator", "a traced function draws from its copy of a generator",
         "Draw from the generator itself, by reference: a run would not copy it again");
  return true;
}

std::uint32_t Generator::next() {
  if (from_outside()) [[unlikely]]
    fail("generator", "a number is drawn while tracing, and every run would use the same",
         "Draw it outside and pass it as an input; dropout draws anew in every run");
  const std::uint64_t index = at_->next / 4;
  if (index != cached_block_) {
    cache_ = block(at_->seed, index);
    cached_block_ = index;
  }
  return cache_[at_->next++ % 4];
}

double Generator::uniform() {
  const std::uint64_t high = next() >> 5;
  const std::uint64_t low = next() >> 6;
  return static_cast<double>((high << 26) | low) * 0x1p-53;
}

std::int64_t Generator::below(std::int64_t bound) {
  if (bound < 1) fail("generator", "below() needs a positive bound");
  return static_cast<std::int64_t>(uniform() * static_cast<double>(bound));
}

double Generator::normal() {
  // Box and Muller's; 1 - u keeps the logarithm finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

Tensor Generator::uniform(const Shape& shape, double low, double high, DType dtype) {
  Tensor result = Tensor::empty(shape, dtype);
  if (result.is_abstract()) return result;
  with_float("uniform", dtype, [&](auto zero) {
    using T = decltype(zero);
    for (T& x : result.mutable_data<T>()) x = static_cast<T>(low + (high - low) * uniform());
  });
  return result;
}

Tensor Generator::normal(const Shape& shape, double mean, double deviation, DType dtype) {
  Tensor result = Tensor::empty(shape, dtype);
  if (result.is_abstract()) return result;
  with_float("normal", dtype, [&](auto zero) {
    using T = decltype(zero);
    for (T& x : result.mutable_data<T>()) x = static_cast<T>(mean + deviation * normal());
  });
  return result;
}

std::vector<std::int64_t> Generator::permutation(std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[below(i + 1)]);
  return order;
}

Draw Generator::draw(std::uint64_t count) {
  if (from_outside()) return Draw(Tape::current()->redraw(at_, count));
  return detail::dry ? Draw() : Draw(at_->reserve(count));
}

}  // namespace unroll
