#include <unistd.h>
#include <unroll/compare/machine.h>
#include <unroll/graph/cpu.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

namespace unroll {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      return line.substr(std::min(line.size(), line.find(':') + 2));
  return "unknown";
}

}  // namespace

nlohmann::json machine_description(int threads) {
  const std::int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  return {{"processor", processor_name()}, {"cores", std::thread::hardware_concurrency()},
          {"memory_bytes", pages * page},  {"built_for", built_for()},
          {"compiler", __VERSION__},       {"threads", threads}};
}

}  // namespace unroll
