#pragma once

#include <unroll/graph/error.h>

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace unroll {

/// A file that appears whole or not at all: what is written goes to a temporary file beside
/// `path`, which commit() makes durable and renames to `path`. Without commit() it is removed, and
/// what stood at `path` before stays. A symbolic link at `path` is replaced, not followed.
class AtomicFile {
 public:
  /// Throws Error for a missing directory, no permission, or a `path` that is no regular file.
  explicit AtomicFile(std::filesystem::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  /// Throws Error where the system refuses, as when the disk is full.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  [[noreturn]] void fail_now(const char* what) const;

  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

/// The whole file at once; see AtomicFile.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace unroll
