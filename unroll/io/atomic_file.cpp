#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <unroll/io/atomic_file.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>

namespace unroll {
namespace {

std::filesystem::path directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

// Unlike any name in use, by this process or another.
std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  static std::atomic<unsigned> count{0};
  // Cut, since a name may have 255 bytes.
  return directory_of(path) / fmt::format(".{:.200}.{}.{}.tmp", path.filename().string(),
                                          ::getpid(), count.fetch_add(1));
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  std::optional<mode_t> mode;  // of the file that will be replaced
  struct stat status {};
  if (::stat(path_.c_str(), &status) == 0) {
    if (!S_ISREG(status.st_mode))
      fail("write", fmt::format("'{}' exists and is not a regular file", path_.string()));
    mode = status.st_mode & 07777;
  }
  if (!path_.has_filename()) fail("write", fmt::format("'{}' names no file", path_.string()));
  for (int attempt = 0; attempt < 100 && descriptor_ < 0; ++attempt) {
    temporary_ = temporary_beside(path_);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) fail_now("cannot be created");
  // Best effort: some file systems know no permissions.
  if (mode && ::fchmod(descriptor_, *mode) != 0) errno = 0;
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::fail_now(const char* what) const {
  const int error = errno;
  const bool no_directory = error == ENOENT;
  fail("write", fmt::format("'{}' {}: {}", path_.string(), what, std::strerror(error)),
       no_directory ? fmt::format("Is there a directory '{}'?", directory_of(path_).string()) : "");
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  if (descriptor_ < 0) fail("write", fmt::format("'{}' is already complete", path_.string()));
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_now("cannot be written");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::commit() {
  if (descriptor_ < 0) fail("write", fmt::format("'{}' is already complete", path_.string()));
  if (::fsync(descriptor_) != 0) fail_now("cannot be written");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_now("cannot be replaced");
  // The temporary file is gone: nothing is left to be undone.
  ::close(descriptor_);
  descriptor_ = -1;
  // The new name is durable once its directory is; where that cannot be asked for, so be it.
  const int directory = ::open(directory_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return;
  ::fsync(directory);
  ::close(directory);
}

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text)));
}

}  // namespace unroll
