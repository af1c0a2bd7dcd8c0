#pragma once

#include <unroll/ops/table.h>

#include <functional>
#include <utility>
#include <vector>

namespace unroll {

/// A sample of an op with one result, its inputs standard normal numbers of these shapes.
inline OpSample normal_sample(std::vector<Shape> shapes,
                              std::function<Tensor(std::span<const Tensor>)> call) {
  return {.inputs =
              [shapes = std::move(shapes)](Generator& g) {
                std::vector<Tensor> inputs;
                for (const Shape& shape : shapes)
                  inputs.push_back(g.normal(shape, 0, 1, DType::f64));
                return inputs;
              },
          .call = [call = std::move(call)](std::span<const Tensor> in) -> std::vector<Tensor> {
            return {call(in)};
          }};
}

/// The same for an op with several results.
inline OpSample normal_sample_of(std::vector<Shape> shapes,
                                 std::function<std::vector<Tensor>(std::span<const Tensor>)> call) {
  OpSample sample = normal_sample(std::move(shapes), nullptr);
  sample.call = std::move(call);
  return sample;
}

}  // namespace unroll
