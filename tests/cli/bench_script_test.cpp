// scripts/bench with programs of its own in place of ours and of a peer's.

#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <string>

#include "../catch.h"
#include "../io/files.h"

namespace {

std::filesystem::path script() {
  return std::filesystem::path(UNROLL_TEST_DATA) / "../../scripts/bench";
}

std::string output_of(const std::string& command) {
  std::FILE* pipe = ::popen((command + " 2>&1 </dev/null").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  std::array<char, 4096> buffer;
  for (std::size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    text.append(buffer.data(), n);
  CAPTURE(text);
  REQUIRE(::pclose(pipe) == 0);
  return text;
}

std::filesystem::path program(const std::filesystem::path& path, const std::string& body) {
  write_plainly(path, "#!/bin/sh\n" + body);
  REQUIRE(::chmod(path.c_str(), 0700) == 0);
  return path;
}

}  // namespace

TEST_CASE("bench puts every time that a peer gives beside ours", "[slow]") {
  const TemporaryDirectory folder;
  const auto ours = program(folder / "ours",
                            "[ \"$1\" = --list ] && echo 'stream X 4 B1' && exit\n"
                            "echo '{\"case\": \"stream X 4 B1\", \"us\": 2.5, \"us_best\": 2}'\n");
  const auto bench = [&](const std::string& line) {
    const auto peer =
        program(folder / "peer", "echo '{\"case\": \"stream X 4 B1\"" + line + "}'\n");
    return output_of("UNROLL_BENCH='" + ours.string() + "' '" + script().string() + "' --peer '" +
                     peer.string() + "'");
  };
  const std::string one = bench(", \"us\": 5, \"us_best\": 4");
  CAPTURE(one);
  CHECK(has(one, "2.00"));
  CHECK(!has(one, "plain"));
  const std::string both = bench(", \"us\": 5, \"us_plain_best\": 9, \"us_plain\": 10");
  CAPTURE(both);
  CHECK(has(both, "2.00"));
  CHECK(has(both, "plain call"));
  CHECK(has(both, "4.00"));
}
