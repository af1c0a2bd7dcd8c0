#pragma once

// The program as a user runs it, and a text for it.

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include "../catch.h"

namespace unroll::test {

struct Run {
  int code = -1;
  std::string text;  // what it printed, errors included
};

// A command as a shell takes it, with nothing to read.
inline Run shell(const std::string& command) {
  Run run;
  std::FILE* pipe = ::popen((command + " 2>&1 </dev/null").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 4096> buffer;
  for (std::size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    run.text.append(buffer.data(), n);
  const int status = ::pclose(pipe);
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
  return run;
}

inline Run program(const std::string& arguments) {
  return shell(std::string("'") + UNROLL_CLI + "' " + arguments);
}

inline bool available() {
  if (std::string(UNROLL_CLI).empty()) {
    WARN("the program is not built");
    return false;
  }
  return true;
}

inline std::string quoted(const std::filesystem::path& path) { return " '" + path.string() + "' "; }

inline std::string prose(int sentences) {
  const char* words[] = {"the", "cat", "sat", "on", "a", "mat", "and", "saw", "nine", "dogs"};
  std::string text;
  unsigned state = 1;
  for (int i = 0; i < sentences; ++i) {
    for (int k = 0; k < 6; ++k) {
      state = state * 1664525u + 1013904223u;
      text += words[(state >> 16) % 10];
      text += k == 5 ? ".\n" : " ";
    }
  }
  return text;
}

}  // namespace unroll::test
