#pragma once

#include <unroll/graph/generator.h>
#include <unroll/graph/tensor.h>

namespace unroll {

/// Each element 0 with probability p, else divided by 1 - p; x itself unless `training`. The mask
/// is drawn again from the generator's counter on the way back: nothing is stored. Throws Error
/// for p outside [0, 1). (Srivastava et al.: "Dropout", 2014.)
Tensor dropout(const Tensor& x, double p, Generator& generator, bool training = true,
               Where where = Where::current());

}  // namespace unroll
