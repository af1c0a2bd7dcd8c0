#include <unroll/graph/dry_run.h>
#include <unroll/graph/parameter.h>
#include <unroll/graph/tape.h>

#include <cstring>

namespace unroll {

Parameter::Parameter(const Tensor& initial) : state_(std::make_shared<ParameterState>()) {
  const MemoryScope scope(MemoryKind::parameter);
  state_->value = initial.clone();
}

void Parameter::set_value(const Tensor& value) {
  if (value.shape() != shape())
    fail_shape("parameter",
               "a value " + to_string(value) + " for a parameter " + to_string(state_->value));
  const MemoryScope scope(MemoryKind::parameter);
  state_->value = value.clone();
  ++state_->version;
}

void Parameter::zero_grad() {
  if (detail::dry) DryRun::set_aside(state_);
  state_->grad = {};
}

Tensor& Parameter::mutable_value() {
  if (!state_->value.unique()) {
    const MemoryScope scope(MemoryKind::parameter);
    state_->value = state_->value.clone();
  }
  ++state_->version;
  return state_->value;
}

Parameter::operator Tensor() const {
  if (state_ == nullptr) fail("parameter", "use of a parameter that was never given a value");
  Tape* tape = Tape::current();
  // A frozen parameter is a constant, but for a trace, which is run again when its value changed.
  if (tape == nullptr || (!state_->trainable && !tape->traces())) return state_->value;
  return tape->leaf(state_);
}

}  // namespace unroll
