#include <fmt/format.h>
#include <unroll/ops/table.h>

#include <memory>

#include "commands.h"

namespace unroll::cli {

void add_ops(CLI::App& app) {
  auto* command = app.add_subcommand("ops", "Lists the ops; docs/ops.md is its output");
  command->callback([] {
    fmt::print(
        "# Ops\n\nEvery op's record, as `unroll ops` prints it. \"Twice\" says whether "
        "gradients of gradients can be taken.\n\n"
        "| op | call | what it does | gradient | twice |\n|---|---|---|---|---|\n");
    for (const OpEntry* op : op_table())
      fmt::print("| {} | `{}` | {} | {} | {} |\n", op->name, op->signature, op->summary,
                 op->differentiable ? "yes" : "no", op->differentiable && op->twice ? "yes" : "no");
  });
}

}  // namespace unroll::cli
