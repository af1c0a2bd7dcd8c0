#include <unroll/ops/table.h>

#include <algorithm>
#include <deque>

namespace unroll {
namespace {

std::deque<OpEntry>& entries() {
  static std::deque<OpEntry> all;
  return all;
}

}  // namespace

RegisterOp::RegisterOp(OpEntry entry) { entries().push_back(std::move(entry)); }

std::vector<const OpEntry*> op_table() {
  std::vector<const OpEntry*> table;
  for (const OpEntry& entry : entries()) table.push_back(&entry);
  std::sort(table.begin(), table.end(),
            [](const OpEntry* a, const OpEntry* b) { return a->name < b->name; });
  return table;
}

}  // namespace unroll
