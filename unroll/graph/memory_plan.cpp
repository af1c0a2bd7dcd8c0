#include <unroll/graph/memory_plan.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace unroll {

std::size_t plan_offsets(std::span<PlannedBlock> blocks) {
  constexpr std::size_t alignment = 64;
  std::vector<std::size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return blocks[a].bytes > blocks[b].bytes; });
  std::vector<const PlannedBlock*> placed;  // by offset
  std::size_t total = 0;
  for (std::size_t i : order) {
    PlannedBlock& block = blocks[i];
    const std::size_t size = (block.bytes + alignment - 1) / alignment * alignment;
    std::size_t offset = 0;
    for (const PlannedBlock* other : placed) {
      if (other->last < block.first || block.last < other->first) continue;
      if (offset + size <= other->offset) break;
      const std::size_t end =
          other->offset + (other->bytes + alignment - 1) / alignment * alignment;
      offset = std::max(offset, end);
    }
    block.offset = offset;
    total = std::max(total, offset + size);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &block,
                                   [](const PlannedBlock* a, const PlannedBlock* b) {
                                     return a->offset < b->offset;
                                   }),
                  &block);
  }
  return total;
}

}  // namespace unroll
