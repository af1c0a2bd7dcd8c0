#pragma once

#include <unroll/graph/generator.h>

#include <cstdint>
#include <memory>

namespace unroll {

/// Random numbers that an op has reserved. A record holds it by value, and gives it on to the
/// record of its way back, so that both see the same numbers.
/// Made by Generator::draw().
class Draw {
 public:
  Draw() = default;
  explicit Draw(const RandomPosition& own) : own_(own) {}
  /// One that moves from run to run of a Program; `at` must outlive the record.
  explicit Draw(const RandomPosition* at) : moving_(at) {}

  /// Where the numbers begin.
  const RandomPosition& position() const { return moving_ != nullptr ? *moving_ : own_; }

 private:
  RandomPosition own_;
  const RandomPosition* moving_ = nullptr;
};

/// What a traced Generator::draw() repeats in each run of the Program.
struct Redraw {
  std::shared_ptr<RandomPosition> generator;
  std::uint64_t count;
  RandomPosition at, before;

  void run() {
    before = *generator;
    at = generator->reserve(count);
  }
  /// Puts the generator back to where it was.
  void undo() { *generator = before; }
};

}  // namespace unroll
