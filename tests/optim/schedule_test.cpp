#include <unroll/graph/error.h>
#include <unroll/optim/schedule.h>

#include <iterator>

#include "../catch.h"
#include "golden.h"

using namespace unroll;

namespace {

bool near(double a, double b) { return std::abs(a - b) <= 1e-12 * (1 + std::abs(b)); }

void check_plateau(ReduceOnPlateauOptions options, std::span<const double> golden) {
  options.rate = 1;
  ReduceOnPlateau plateau(options);
  for (std::size_t i = 0; i < std::size(golden::metrics); ++i) {
    INFO("observation " << i);
    if (i == 8) {  // goes on from its saved state
      const auto state = plateau.state_dict();
      plateau = ReduceOnPlateau(options);
      plateau.load_state_dict(state);
    }
    CHECK(near(plateau.observe(golden::metrics[i]), golden[i]));
  }
}

}  // namespace

TEST_CASE("constant and step decay", "[optim]") {
  CHECK(schedule::constant(0.5)(1000) == 0.5);
  const Schedule rate = schedule::step_decay({.rate = 1, .every = 10, .factor = 0.5});
  CHECK(rate(0) == 1);
  CHECK(rate(9) == 1);
  CHECK(rate(10) == 0.5);
  CHECK(rate(39) == 0.125);
}

TEST_CASE("cosine goes up, down and stays", "[optim]") {
  const Schedule rate =
      schedule::cosine({.rate = 1, .steps = 110, .warmup_steps = 10, .final_rate = 0.2});
  CHECK(near(rate(0), 0.1));
  CHECK(near(rate(4), 0.5));
  CHECK(near(rate(9), 1));
  CHECK(near(rate(10), 1));
  CHECK(near(rate(60), 0.6));
  CHECK(near(rate(110), 0.2));
  CHECK(near(rate(100'000), 0.2));
  for (int step = 11; step <= 110; ++step) CHECK(rate(step) < rate(step - 1));
  CHECK(near(schedule::cosine({.rate = 1, .steps = 4})(2), 0.5));
}

TEST_CASE("warm-up scales any schedule", "[optim]") {
  const Schedule rate = schedule::linear_warmup(4, [](std::int64_t step) { return 1.0 + step; });
  CHECK(near(rate(0), 0.25));
  CHECK(near(rate(1), 1));
  CHECK(near(rate(3), 4));
  CHECK(near(rate(7), 8));
  CHECK(schedule::linear_warmup(0, schedule::constant(1))(0) == 1);
}

TEST_CASE("inverse square root peaks at the end of the warm-up", "[optim]") {
  const Schedule rate = schedule::inverse_sqrt({.rate = 2, .warmup_steps = 100});
  CHECK(near(rate(0), 0.02));
  CHECK(near(rate(99), 2));
  CHECK(near(rate(399), 1));
}

TEST_CASE("ReduceOnPlateau does what PyTorch's does", "[optim]") {
  check_plateau({.factor = 0.5, .patience = 1}, golden::plateau);
  check_plateau({.factor = 0.1, .patience = 0, .cooldown = 2, .min_rate = 0.005},
                golden::plateau_cooldown);
  check_plateau({.factor = 0.5, .patience = 2, .threshold = 0.01, .higher_is_better = true},
                golden::plateau_higher);
}

TEST_CASE("schedules refuse what makes no sense", "[optim]") {
  CHECK_THROWS_AS(schedule::constant(-1), Error);
  CHECK_THROWS_AS(schedule::constant(NAN), Error);
  CHECK_THROWS_AS(schedule::step_decay({.every = 0}), Error);
  CHECK_THROWS_AS(schedule::cosine({}), Error);
  CHECK_THROWS_AS(schedule::cosine({.steps = 10, .warmup_steps = 10}), Error);
  CHECK_THROWS_AS(schedule::linear_warmup(-1, schedule::constant(1)), Error);
  CHECK_THROWS_AS(schedule::linear_warmup(1, nullptr), Error);
  CHECK_THROWS_AS(schedule::inverse_sqrt({.warmup_steps = 0}), Error);
  CHECK_THROWS_AS(ReduceOnPlateau({.factor = 1}), Error);
  ReduceOnPlateau plateau;
  auto state = plateau.state_dict();
  state.erase("best");
  CHECK_THROWS_AS(plateau.load_state_dict(state), Error);
  CHECK(plateau.rate() == 1e-3);
}
