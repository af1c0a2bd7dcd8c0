#include <unroll/graph/generator.h>
#include <unroll/graph/gradient_check.h>
#include <unroll/graph/tape.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace unroll {
namespace {

std::vector<double> flat_values(std::span<const Tensor> tensors) {
  std::vector<double> values;
  for (const Tensor& tensor : tensors) {
    if (!is_float(tensor.dtype())) continue;
    const Tensor wide = tensor.to(DType::f64);
    values.insert(values.end(), wide.data<double>().begin(), wide.data<double>().end());
  }
  return values;
}

std::vector<Tensor> floating(std::vector<Tensor> tensors) {
  std::erase_if(tensors, [](const Tensor& tensor) { return !is_float(tensor.dtype()); });
  return tensors;
}

// f's outputs, all in a row, with element `place` of input `which` moved by h.
std::vector<double> moved(const TensorFunction& f, std::span<const Tensor> inputs,
                          std::size_t which, std::int64_t place, double h) {
  std::vector<Tensor> changed(inputs.begin(), inputs.end());
  changed[which] = inputs[which].clone();
  changed[which].mutable_data<double>()[place] += h;
  return flat_values(f(changed));
}

// A column of the Jacobian: the derivative of every output by one input element.
std::vector<double> numeric_column(const TensorFunction& f, std::span<const Tensor> inputs,
                                   std::size_t which, std::int64_t place) {
  const double h = 1e-4 * std::max(1.0, std::abs(inputs[which].data<double>()[place]));
  const auto slope = [&](double step) {
    std::vector<double> up = moved(f, inputs, which, place, step);
    const std::vector<double> down = moved(f, inputs, which, place, -step);
    for (std::size_t i = 0; i < up.size(); ++i) up[i] = (up[i] - down[i]) / (2 * step);
    return up;
  };
  const std::vector<double> wide = slope(h);
  std::vector<double> column = slope(h / 2);
  // The error of a central difference is c h^2: two steps tell c.
  for (std::size_t i = 0; i < column.size(); ++i) column[i] += (column[i] - wide[i]) / 3;
  return column;
}

// All rows of the Jacobian, one walk back per output element: [outputs][inputs].
std::vector<std::vector<double>> analytic_rows(const TensorFunction& f,
                                               std::span<const Tensor> inputs,
                                               std::span<const std::size_t> wrt) {
  Tape tape;
  std::vector<Tensor> watched(inputs.begin(), inputs.end()), by;
  for (std::size_t i : wrt) {
    watched[i] = tape.watch(inputs[i]);
    by.push_back(watched[i]);
  }
  std::size_t columns = 0;
  for (const Tensor& tensor : by) columns += static_cast<std::size_t>(tensor.numel());
  const std::vector<Tensor> outputs = floating(f(watched));
  std::vector<std::vector<double>> rows;
  for (const Tensor& output : outputs)
    for (std::int64_t i = 0; i < output.numel(); ++i) {
      if (!tape.owns(output)) {
        rows.emplace_back(columns, 0.0);  // a constant
        continue;
      }
      Tensor seed = Tensor::zeros(output.shape(), output.dtype());
      with_float("gradient_error", output.dtype(),
                 [&](auto zero) { seed.mutable_data<decltype(zero)>()[i] = 1; });
      rows.push_back(
          flat_values(tape.gradient(std::span(&output, 1), by, {.seeds = std::span(&seed, 1)})));
    }
  return rows;
}

}  // namespace

double gradient_error(const TensorFunction& f, std::span<const Tensor> inputs,
                      std::span<const std::size_t> wrt) {
  const std::vector<std::vector<double>> rows = analytic_rows(f, inputs, wrt);
  double worst = 0;
  std::size_t column = 0;
  for (std::size_t which : wrt)
    for (std::int64_t place = 0; place < inputs[which].numel(); ++place, ++column) {
      const std::vector<double> numeric = numeric_column(f, inputs, which, place);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const double a = rows[i][column], n = numeric[i];
        const double error = std::abs(a - n) / std::max({1.0, std::abs(a), std::abs(n)});
        worst = std::isnan(error) ? INFINITY : std::max(worst, error);
      }
    }
  return worst;
}

TensorFunction gradient_of(const TensorFunction& f, std::vector<std::size_t> wrt) {
  return [f, wrt = std::move(wrt)](std::span<const Tensor> inputs) {
    // Within a check the inputs are watched already; its differences run without a tape.
    std::optional<Tape> own;
    std::vector<Tensor> watched(inputs.begin(), inputs.end()), by;
    if (Tape::current() == nullptr) own.emplace();
    Tape& tape = *Tape::current();
    for (std::size_t i : wrt) {
      if (!tape.owns(watched[i])) watched[i] = tape.watch(watched[i]);
      by.push_back(watched[i]);
    }
    std::vector<Tensor> outputs = floating(f(watched)), seeds;
    std::erase_if(outputs, [&](const Tensor& tensor) { return !tape.owns(tensor); });
    Generator generator(17);
    for (const Tensor& output : outputs)
      seeds.push_back(generator.normal(output.shape(), 0, 1, output.dtype()));
    return tape.gradient(outputs, by, {.create_graph = true, .seeds = seeds});
  };
}

}  // namespace unroll
