#pragma once

#include <unroll/layers/recurrent.h>

namespace unroll {

/// Chrono initialisation (Tallec and Ollivier, "Can recurrent neural networks warp time?", 2018,
/// section 2.3): units are given forgetting times from 1 to `longest` steps, drawn evenly, so that
/// a dependency of that length is within reach before anything has been learned. The biases of the
/// gates (their sum where there are two; the other is set to 0) become
///
///     LSTM: b_f = log(u), b_i = -b_f        GRU: b_z = log(u)        u ~ U(1, longest - 1)
///
/// in all layers and directions. Throws Error for `longest` below 3, a layer without biases and one
/// without gates.
void chrono_init(RecurrentLayer& layer, std::int64_t longest, GeneratorRef generator = {});

}  // namespace unroll
