#include <fmt/format.h>
#include <unroll/io/fail_data.h>
#include <unroll/io/idx.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

namespace unroll {
namespace {

struct CloseArchive {
  void operator()(gzFile_s* file) const { gzclose(file); }
};

// gzread() passes plain files through.
class Source {
 public:
  explicit Source(const std::filesystem::path& path)
      : name_(path.string()), file_(gzopen(path.c_str(), "rb")) {
    if (file_ == nullptr || std::filesystem::is_directory(path))
      fail(file_ == nullptr ? std::strerror(errno) : "is a directory");
  }
  // How many bytes there still were, up to into's size.
  std::size_t read(std::span<std::uint8_t> into) {
    constexpr std::size_t most = 1 << 20;
    std::size_t done = 0;
    while (done < into.size()) {
      const std::size_t wanted = std::min(into.size() - done, most);
      const int got = gzread(file_.get(), into.data() + done, static_cast<unsigned>(wanted));
      int code = Z_OK;
      const char* problem = gzerror(file_.get(), &code);
      if (got < 0 || (code != Z_OK && code != Z_STREAM_END)) fail(problem);
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }
  [[noreturn]] void fail(const std::string& problem) const {
    fail_data("read_idx", fmt::format("'{}': {}", name_, problem));
  }

 private:
  std::string name_;
  std::unique_ptr<gzFile_s, CloseArchive> file_;
};

}  // namespace

Tensor read_idx(const std::filesystem::path& path) {
  Source source(path);
  std::array<std::uint8_t, 4> four{};
  if (source.read(four) < 4 || four[0] != 0 || four[1] != 0) source.fail("is no IDX file");
  if (four[2] != 8)
    source.fail(
        fmt::format("has elements of type 0x{:02x}; only unsigned bytes (0x08) are read", four[2]));
  if (four[3] > Shape::max_rank) source.fail(fmt::format("has {} axes", four[3]));
  std::vector<std::int64_t> sizes;
  std::int64_t elements = 1;
  constexpr std::int64_t most = std::int64_t{1} << 36;
  for (int axes = four[3]; axes > 0; --axes) {
    if (source.read(four) < 4) source.fail("ends within its header");
    const std::int64_t size = std::int64_t{four[0]} << 24 | std::int64_t{four[1]} << 16 |
                              std::int64_t{four[2]} << 8 | std::int64_t{four[3]};
    sizes.push_back(size);
    elements = size == 0 ? 0 : elements > most / size ? most + 1 : elements * size;
  }
  if (elements > most) source.fail("claims more elements than are believed");
  // Grown as the elements come: a false header must not take the memory that it claims.
  std::vector<std::uint8_t> values, block(1 << 20);
  for (std::size_t got = 0; (got = source.read(block)) > 0;) {
    values.insert(values.end(), block.begin(), block.begin() + static_cast<std::ptrdiff_t>(got));
    if (std::ssize(values) > elements) break;
  }
  if (std::ssize(values) != elements)
    source.fail(fmt::format("holds {} elements than the {} of its header",
                            std::ssize(values) < elements ? "fewer" : "more", elements));
  return Tensor::from(values, Shape(sizes));
}

}  // namespace unroll
