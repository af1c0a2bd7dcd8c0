#include <unroll/io/idx.h>
#include <zlib.h>

#include <algorithm>
#include <numeric>

#include "../catch.h"
#include "files.h"

using namespace unroll;

namespace {

std::string idx(const std::vector<unsigned>& sizes, std::size_t elements, char type = 8) {
  std::string text = {0, 0, type, static_cast<char>(sizes.size())};
  for (const unsigned size : sizes)
    for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(size >> shift & 0xff);
  for (std::size_t i = 0; i < elements; ++i) text += static_cast<char>(i);
  return text;
}

std::filesystem::path compressed(const std::filesystem::path& path, const std::string& text) {
  const gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  return path;
}

}  // namespace

TEST_CASE("read_idx reads plain and compressed arrays", "[io]") {
  const TemporaryDirectory directory;
  for (const auto& path : {write_plainly(directory / "a", idx({2, 3, 50}, 300)),
                           compressed(directory / "a.gz", idx({2, 3, 50}, 300))}) {
    const Tensor array = read_idx(path);
    REQUIRE(array.dtype() == DType::u8);
    REQUIRE(array.shape() == Shape{2, 3, 50});
    const auto values = array.data<std::uint8_t>();
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(values[i] == i % 256);
  }
}

TEST_CASE("read_idx refuses what is broken", "[io]") {
  const TemporaryDirectory directory;
  const auto refusal = [&](const std::string& text) {
    return message_of<DataError>([&] { read_idx(write_plainly(directory / "x", text)); });
  };
  CHECK(has(refusal("text"), "no IDX file"));
  CHECK(has(refusal(""), "no IDX file"));
  CHECK(has(refusal(idx({4}, 4, 0x0d)), "type 0x0d"));
  CHECK(has(refusal(idx({4, 4}, 15)), "fewer elements than the 16"));
  CHECK(has(refusal(idx({4, 4}, 17)), "more elements than the 16"));
  CHECK(has(refusal(idx({4, 4}, 0).substr(0, 10)), "within its header"));
  CHECK(has(refusal(idx({~0u, ~0u, ~0u}, 9)), "believed"));
  CHECK(has(refusal(idx({1, 1, 1, 1, 1, 1, 1}, 1)), "7 axes"));
  const std::string whole = read_plainly(compressed(directory / "b.gz", idx({3000}, 3000)));
  CHECK(has(refusal(whole.substr(0, whole.size() / 2)), "'"));
  std::string flipped = whole;
  flipped[whole.size() - 6] = static_cast<char>(flipped[whole.size() - 6] ^ 0x55);  // checksum
  CHECK(has(refusal(flipped), "incorrect data check"));
  CHECK(has(message_of<DataError>([&] { read_idx(directory / "none"); }), "No such file"));
  CHECK(has(message_of<DataError>([&] { read_idx(directory.path()); }), "directory"));
}

TEST_CASE("MNIST as it is known", "[io]") {
  const auto path = external_data("mnist/t10k-labels-idx1-ubyte.gz");
  if (path.empty()) {
    WARN("skipped: mnist is not in $UNROLL_DATA");
    return;
  }
  const Tensor labels = read_idx(path);
  REQUIRE(labels.shape() == Shape{10000});
  const auto values = labels.data<std::uint8_t>();
  CHECK(std::count(values.begin(), values.end(), 1) == 1135);
  CHECK(std::vector(values.begin(), values.begin() + 5) ==
        std::vector<std::uint8_t>{7, 2, 1, 0, 4});
}
