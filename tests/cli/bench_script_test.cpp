// scripts/bench with programs of its own in place of ours and of a peer's.

#include <sys/stat.h>

#include <string>

#include "../catch.h"
#include "../io/files.h"
#include "program.h"

using namespace unroll::test;

namespace {

std::filesystem::path script() {
  return std::filesystem::path(UNROLL_TEST_DATA) / "../../scripts/bench";
}

std::filesystem::path script_of(const std::filesystem::path& path, const std::string& body) {
  write_plainly(path, "#!/bin/sh\n" + body);
  REQUIRE(::chmod(path.c_str(), 0700) == 0);
  return path;
}

}  // namespace

TEST_CASE("bench puts every time that a peer gives beside ours", "[slow]") {
  const TemporaryDirectory folder;
  const auto ours =
      script_of(folder / "ours",
                "[ \"$1\" = --list ] && echo 'stream X 4 B1' && exit\n"
                "echo '{\"case\": \"stream X 4 B1\", \"us\": 2.5, \"us_best\": 2}'\n");
  const auto bench = [&](const std::string& line) {
    const auto peer =
        script_of(folder / "peer", "echo '{\"case\": \"stream X 4 B1\"" + line + "}'\n");
    const Run run =
        shell("UNROLL_BENCH='" + ours.string() + "'" + quoted(script()) + "--peer" + quoted(peer));
    CAPTURE(run.text);
    REQUIRE(run.code == 0);
    return run.text;
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
