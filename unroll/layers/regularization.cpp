#include <fmt/format.h>
#include <unroll/layers/dropout.h>
#include <unroll/layers/regularization.h>
#include <unroll/ops/arithmetic.h>
#include <unroll/ops/dropout.h>
#include <unroll/ops/index.h>
#include <unroll/ops/scan.h>

#include <algorithm>
#include <array>

namespace unroll {
namespace {

// Columns that go through scan beside an input.
class Columns {
 public:
  explicit Columns(const Tensor& xs) : parts_{xs}, width_(xs.size(-1)) {}
  /// Appends masks [T, B, n]; undefined: none.
  void add(std::size_t which, const Tensor& mask) {
    if (!mask.defined()) return;
    begin_[which] = width_;
    width_ += mask.size(-1);
    end_[which] = width_;
    parts_.push_back(mask);
  }
  Tensor joined() const { return parts_.size() == 1 ? parts_[0] : concat(parts_, -1); }
  Tensor input(const Tensor& step) const {
    return parts_.size() == 1 ? step : slice(step, -1, 0, parts_[0].size(-1));
  }
  Tensor operator()(std::size_t which, const Tensor& step) const {
    return end_[which] == 0 ? Tensor() : slice(step, -1, begin_[which], end_[which]);
  }

 private:
  std::vector<Tensor> parts_;
  std::int64_t width_;
  std::array<std::int64_t, 3> begin_{}, end_{};
};

// The output of a cell is its new h, which zoneout changes.
template <class Keep>
Output zoned(Output step, const State& before, const Keep& keep) {
  for (std::size_t k = 0; k < before.size(); ++k) step.state[k] = keep(k, before[k], step.state[k]);
  step.output = step.state[0];
  return step;
}

}  // namespace

std::span<const Regularization::Field> Regularization::fields() {
  static constexpr Field all[] = {{"input_dropout", &Regularization::input_dropout},
                                  {"hidden_dropout", &Regularization::hidden_dropout},
                                  {"update_dropout", &Regularization::update_dropout},
                                  {"zoneout_h", &Regularization::zoneout_h},
                                  {"zoneout_c", &Regularization::zoneout_c},
                                  {"weight_drop", &Regularization::weight_drop}};
  return all;
}

bool Regularization::any() const {
  const auto all = fields();
  return std::any_of(all.begin(), all.end(),
                     [&](const Field& one) { return this->*one.value != 0; });
}

Regularizer::Regularizer(const Regularization& o, GeneratorRef generator)
    : options_(o), generator_(detail::own_generator(generator)) {
  for (const auto& [name, value] : Regularization::fields())
    if (!(o.*value >= 0 && o.*value < 1))
      fail("Regularization", fmt::format("{} = {} is not in [0, 1)", name, o.*value));
  add("generator", generator_);
}

Output Regularizer::run(const RecurrentCell& cell, const Tensor& xs, const State& state,
                        const ScanOptions& options, const Where& where) {
  if (training()) return train_run(cell, xs, state, options, where);
  return scan([&](const Tensor& x, const State& before) { return expected(cell, x, before); }, xs,
              state, options, where);
}

Output Regularizer::train_run(const RecurrentCell& cell, const Tensor& xs, const State& state,
                              const ScanOptions& options, const Where& where) {
  const Regularization& o = options_;
  const std::int64_t steps = xs.size(0), batch = xs.size(1);
  // 0 or 1 / (1 - p); undefined where nothing is dropped.
  const auto scaled = [&](double p, const Shape& shape) {
    return p == 0 ? Tensor() : dropout(Tensor::full(shape, 1, xs.dtype()), p, generator_);
  };
  enum : std::size_t { update, zone_h, zone_c };
  const auto by_step = [&](double p, const Tensor& like) {
    return scaled(p, {steps, batch, like.size(-1)});
  };

  const Tensor input_mask = scaled(o.input_dropout, {1, batch, xs.size(-1)});
  const StepMasks fixed{
      .weight_hh = o.weight_drop == 0 ? Tensor()
                                      : dropout(cell.recurrent_weight(), o.weight_drop, generator_),
      .hidden = scaled(o.hidden_dropout, state[0].shape())};
  Columns columns(input_mask.defined() ? xs * input_mask : xs);
  columns.add(update, by_step(o.update_dropout, state.back()));
  columns.add(zone_h, by_step(o.zoneout_h, state[0]));
  if (state.size() > 1) columns.add(zone_c, by_step(o.zoneout_c, state[1]));

  const auto step = [&](const Tensor& x, const State& before) {
    StepMasks masks = fixed;
    masks.update = columns(update, x);
    const std::array<Tensor, 2> changes{columns(zone_h, x), columns(zone_c, x)};
    Output next = cell.masked(columns.input(x), before, masks);
    if (o.zoneout_h == 0 && o.zoneout_c == 0) return next;
    return zoned(std::move(next), before,
                 [&](std::size_t k, const Tensor& old, const Tensor& fresh) {
                   return changes[k].defined() ? unroll::where(changes[k], fresh, old) : fresh;
                 });
  };
  return scan(step, columns.joined(), state, options, where);
}

Output Regularizer::expected(const RecurrentCell& cell, const Tensor& x,
                             const State& before) const {
  const std::array<double, 2> stay{options_.zoneout_h, options_.zoneout_c};
  Output next = cell(x, before);
  if (stay[0] == 0 && stay[1] == 0) return next;
  return zoned(std::move(next), before, [&](std::size_t k, const Tensor& old, const Tensor& fresh) {
    return stay[k] == 0 ? fresh : old * stay[k] + fresh * (1 - stay[k]);
  });
}

std::string Regularizer::describe() const {
  std::string text;
  for (const auto& [name, value] : Regularization::fields())
    if (options_.*value != 0)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, options_.*value);
  return fmt::format("Regularizer({})", text);
}

}  // namespace unroll
