#include <unroll/graph/dry_run.h>

#include <algorithm>

namespace unroll {
namespace {

thread_local DryRun* current = nullptr;

}  // namespace

DryRun::DryRun() : outer_(std::exchange(current, this)), peak_(detail::thread_peak()) {
  detail::dry = true;
}

DryRun::~DryRun() {
  for (const auto& [parameter, grad] : gradients_) {
    if (grad.buffer() != nullptr) detail::count_buffer(*grad.buffer(), true);
    parameter->grad = grad;
  }
  for (const auto& weak : cleared_)
    if (const auto tensors = weak.lock()) tensors->clear();
  detail::set_thread_peak(peak_);
  detail::dry = outer_ != nullptr;
  current = outer_;
}

void DryRun::set_aside(const std::shared_ptr<ParameterState>& parameter) {
  auto& known = current->gradients_;
  const auto is_it = [&](const auto& one) { return one.first == parameter; };
  if (std::any_of(known.begin(), known.end(), is_it)) return;
  const Tensor grad = std::exchange(parameter->grad, Tensor());
  if (grad.buffer() != nullptr) {
    detail::count_buffer(*grad.buffer(), false);
    const MemoryScope scope(MemoryKind::gradient);
    parameter->grad = Tensor::empty(grad.shape(), grad.dtype());
  }
  known.emplace_back(parameter, grad);
}

void DryRun::clear_at_end(const std::shared_ptr<std::vector<Tensor>>& tensors) {
  current->cleared_.push_back(tensors);
}

MemoryStats predict_memory(const std::function<void()>& step) {
  const DryRun dry;
  step();
  detail::set_thread_peak(detail::thread_live());
  step();
  MemoryStats stats = memory_stats();
  stats.peak = stats.live - detail::thread_live() + detail::thread_peak();
  return stats;
}

}  // namespace unroll
