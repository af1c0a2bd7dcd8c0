#include <fmt/format.h>
#include <unistd.h>
#include <unroll/train/progress.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace unroll {

Progress::Progress(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) == 1), start_(Clock::now()) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

std::string Progress::duration(double seconds) {
  const auto whole = std::llround(seconds);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

void Progress::update(double done, const std::string& note) {
  if (!terminal_) return;
  const auto now = Clock::now();
  if (drawn_ && done < 1.0 && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  drawn_ = true;
  done = std::clamp(done, 0.0, 1.0);
  const double spent = seconds_since(start_);
  const std::string left =
      done > 0.01 ? duration(spent * (1.0 - done) / done) + " left" : std::string("...");
  constexpr int width = 24;
  const int full = static_cast<int>(done * width);
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < full ? "#" : ".";
  const std::string line =
      fmt::format("\r\033[K{:<14} [{}] {:3.0f}%  {}  {}", label_, bar, done * 100, left, note);
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace unroll
