#include <fmt/format.h>
#include <unroll/graph/program.h>

namespace unroll {

std::string to_dot(const Program& program) {
  const Tape& tape = program.tape();
  std::string text = "digraph program {\n  node [shape=box, fontname=\"sans-serif\"];\n";
  for (std::size_t n = 0; n < tape.size(); ++n) {
    const Node& node = tape.node(n);
    const char* name = node.op != nullptr          ? node.op->name()
                       : node.parameter != nullptr ? "parameter"
                                                   : "input";
    text += fmt::format("  n{} [label=\"{}\"{}];\n", n, name,
                        node.op == nullptr ? ", style=rounded" : "");
    for (std::uint32_t i = 0; i < node.input_count; ++i) {
      const Value& value = tape.value(node.inputs[i]);
      const std::string label = to_string(value.tensor);
      if (value.producer == Value::constant) {
        text += fmt::format("  c{} [label=\"constant\", style=dotted];\n", node.inputs[i]);
        text += fmt::format("  c{} -> n{} [label=\"{}\"];\n", node.inputs[i], n, label);
      } else {
        text += fmt::format("  n{} -> n{} [label=\"{}\"];\n", value.producer, n, label);
      }
    }
  }
  return text + "}\n";
}

}  // namespace unroll
