#pragma once

#include <unroll/train/model_input.h>

namespace unroll::detail {

// Models of the kinds mingru, minlstm, mamba and rwkv: embed (rwkv: and a norm), residual blocks
// (layers/minimal.h, mamba.h, rwkv.h), a norm, and a head. docs/models.md lists their parameters.

std::unique_ptr<SequenceModel> make_block_model(const ModelConfig& config, GeneratorRef generator);

/// What parameter_count() says of them.
double block_parameter_count(const ModelConfig& config);

}  // namespace unroll::detail
