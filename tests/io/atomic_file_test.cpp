#include <sys/resource.h>
#include <sys/stat.h>
#include <unroll/io/atomic_file.h>

#include <csignal>

#include "../catch.h"
#include "files.h"

using namespace unroll;

namespace {

// While it lives, no file of this process may grow beyond `bytes`: a disk that is full.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &saved_);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = saved_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &saved_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit saved_{};
  void (*handler_)(int);
};

}  // namespace

TEST_CASE("a file is written and replaced whole", "[io]") {
  const TemporaryDirectory directory;
  const auto path = directory / "a.txt";
  write_file_atomically(path, "first");
  CHECK(read_plainly(path) == "first");
  ::chmod(path.c_str(), 0600);
  write_file_atomically(path, std::string(200'000, 'x'));
  CHECK(read_plainly(path) == std::string(200'000, 'x'));
  CHECK((std::filesystem::status(path).permissions() & std::filesystem::perms::all) ==
        (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
  write_file_atomically(path, "");
  CHECK(read_plainly(path).empty());
  CHECK(directory.files() == 1);
}

TEST_CASE("without commit nothing happens", "[io]") {
  const TemporaryDirectory directory;
  const auto path = write_plainly(directory / "a.txt", "old");
  {
    AtomicFile file(path);
    file.write("new");
    CHECK(read_plainly(path) == "old");
  }
  CHECK(read_plainly(path) == "old");
  CHECK(directory.files() == 1);
}

TEST_CASE("a full disk leaves the old file and no other", "[io]") {
  const TemporaryDirectory directory;
  const auto path = write_plainly(directory / "a.txt", "old");
  std::string message;
  {
    const FullDisk full(1000);
    message = message_of<Error>([&] { write_file_atomically(path, std::string(5000, 'x')); });
  }
  INFO(message);
  CHECK(has(message, "a.txt"));
  CHECK(has(message, "cannot be written"));
  CHECK(read_plainly(path) == "old");
  CHECK(directory.files() == 1);
}

TEST_CASE("what cannot be written says why", "[io]") {
  const TemporaryDirectory directory;
  const auto missing =
      message_of<Error>([&] { write_file_atomically(directory / "no/a.txt", "x"); });
  CHECK(has(missing, "no/a.txt"));
  CHECK(has(missing, "Is there a directory"));
  CHECK(has(message_of<Error>([&] { write_file_atomically(directory.path(), "x"); }),
            "not a regular file"));
  CHECK(has(message_of<Error>([&] { write_file_atomically("/dev/null", "x"); }),
            "not a regular file"));
  CHECK(std::filesystem::is_character_file("/dev/null"));
  CHECK_THROWS_AS(write_file_atomically("", "x"), Error);
  CHECK(directory.files() == 0);

  AtomicFile file(directory / "b.txt");
  file.commit();
  CHECK_THROWS_AS(file.write("x"), Error);
  CHECK_THROWS_AS(file.commit(), Error);

  const auto longest = directory / std::string(255, 'n');
  write_file_atomically(longest, "x");
  CHECK(read_plainly(longest) == "x");
}
