#include <unroll/graph/error.h>
#include <unroll/graph/generator.h>
#include <unroll/io/safetensors.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "../catch.h"
#include "../tensors.h"
#include "files.h"

using namespace unroll;

namespace {

using Bytes = std::vector<std::byte>;

std::map<std::string, Tensor> sample() {
  Tensor half = Tensor::empty({3}, DType::bf16);
  std::memcpy(half.bytes(), "\x80\x3F\x00\x40\xC0\x7F", 6);
  return {
      {"lstm.weight_ih_l0", Tensor::from({1.5f, -2.0f, NAN, 0.0f, -0.0f, 1e-42f}, {2, 3})},
      {"scale", Tensor::from({0.1}, {})},
      {"steps", Tensor::from({std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()}, {2})},
      {"ids", Tensor::from({1, 2, 3}, {3, 1})},
      {"bytes", Tensor::from({std::uint8_t{0}, std::uint8_t{255}, std::uint8_t{7}}, {3})},
      {"half", half},
      {"empty", Tensor::zeros({0, 5})},
      {"quote \" and \xC3\xA9", Tensor::zeros({1})}};
}

Bytes file_of(std::string header, std::string_view data) {
  const std::uint64_t length = header.size();
  Bytes bytes(8 + header.size() + data.size());
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  if (!data.empty()) std::memcpy(bytes.data() + 8 + header.size(), data.data(), data.size());
  return bytes;
}

std::string refusal(const std::string& header, std::string_view data = {}) {
  return message_of<DataError>([&] { parse_safetensors(file_of(header, data)); });
}

// One f32 tensor "w" with the given text of its entry.
std::string refusal_of_entry(const std::string& entry, std::string_view data = "12345678") {
  return refusal("{\"w\":" + entry + "}", data);
}

}  // namespace

TEST_CASE("safetensors round trip", "[io]") {
  const auto tensors = sample();
  const Metadata metadata = {{"format", "pt"}, {"note", "line\nbreak"}};

  Metadata read = {{"to be", "replaced"}};
  const Bytes bytes = serialize_safetensors(tensors, metadata);
  CHECK(same_bits(parse_safetensors(bytes, &read), tensors));
  CHECK(read == metadata);
  CHECK(serialize_safetensors(tensors, metadata) == bytes);

  const TemporaryDirectory directory;
  const auto path = directory / "model.safetensors";
  save_safetensors(path, tensors, metadata);
  CHECK(std::filesystem::file_size(path) == bytes.size());
  CHECK(same_bits(load_safetensors(path), tensors));
  CHECK(directory.files() == 1);

  CHECK(parse_safetensors(serialize_safetensors({})).empty());
}

TEST_CASE("safetensors writes the published layout", "[io]") {
  const Bytes bytes = serialize_safetensors(
      {{"b", Tensor::from({1.0f}, {1})}, {"a", Tensor::from({std::uint8_t{9}}, {})}});
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  CHECK(length % 8 == 0);
  std::string header(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  header.erase(header.find_last_not_of(' ') + 1);
  CHECK(header == R"({"a":{"data_offsets":[4,5],"dtype":"U8","shape":[]},)"
                  R"("b":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}})");
  CHECK(bytes.size() == 8 + length + 5);
}

TEST_CASE("safetensors reads halves and truth values", "[io]") {
  const std::string header =
      R"({"h":{"dtype":"F16","shape":[7],"data_offsets":[0,14]},)"
      R"("t":{"dtype":"BOOL","shape":[2],"data_offsets":[14,16],"more":0}}   )";
  const std::uint16_t halves[] = {0x3C00, 0xC000, 0x0001, 0x8000, 0x7BFF, 0xFC00, 0x7E00};
  std::string data(reinterpret_cast<const char*>(halves), sizeof halves);
  data += std::string_view("\0\1", 2);
  const auto tensors = parse_safetensors(file_of(header, data));
  const auto h = tensors.at("h").data<float>();
  CHECK(h[0] == 1);
  CHECK(h[1] == -2);
  CHECK(h[2] == 0x1p-24f);
  CHECK((h[3] == 0 && std::signbit(h[3])));
  CHECK(h[4] == 65504);
  CHECK(h[5] == -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(h[6]));
  CHECK(tensors.at("t").data<std::uint8_t>()[1] == 1);
}

TEST_CASE("a safetensors file cut anywhere is refused", "[io]") {
  const Bytes bytes = serialize_safetensors(sample(), {{"format", "pt"}});
  const TemporaryDirectory directory;
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    INFO(size << " of " << bytes.size() << " bytes");
    CHECK_THROWS_AS(parse_safetensors(std::span(bytes).first(size)), DataError);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), size);
    const auto path = write_plainly(directory / "cut", text);
    CHECK(has(message_of<DataError>([&] { load_safetensors(path); }), "cut'"));
  }
  Bytes longer = bytes;
  longer.push_back({});
  CHECK_THROWS_AS(parse_safetensors(longer), DataError);
}

TEST_CASE("a safetensors header that lies is refused", "[io]") {
  SECTION("its length") {
    for (const std::uint64_t length :
         {std::uint64_t{3}, std::uint64_t{100'000'000}, std::uint64_t{100'000'001},
          std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
      Bytes bytes = file_of("{}", "");
      std::memcpy(bytes.data(), &length, 8);
      CHECK_THROWS_AS(parse_safetensors(bytes), DataError);
    }
    CHECK(has(refusal(""), "does not begin with '{'"));
  }
  SECTION("JSON") {
    for (const char* header : {"{", "[]", "{]", "null", " {}", "{}{}", "{\"a\":}", "{\"\xFF\":1}",
                               "{\"w\":1}", "{\"w\":[]}", "{\"w\":null}", "{\"w\":{}}"})
      CHECK_THROWS_AS(parse_safetensors(file_of(header, "")), DataError);
    CHECK_THROWS_AS(parse_safetensors(file_of(std::string("{}\0", 3), "")), DataError);
  }
  SECTION("nesting") {
    const std::string deep(1'000'000, '[');
    CHECK(has(refusal("{\"w\":" + deep), "nested too deeply"));
    std::string objects;
    for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
    CHECK(has(refusal(objects), "nested too deeply"));
  }
  SECTION("dtype") {
    CHECK(has(refusal_of_entry(R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})"), "F31"));
    CHECK(has(refusal_of_entry(R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})"), "32"));
    CHECK(has(refusal_of_entry(R"({"shape":[2],"data_offsets":[0,8]})"), "no dtype"));
  }
  SECTION("shape") {
    for (const char* shape : {"[-2]",
                              "[2.0]",
                              "[\"2\"]",
                              "2",
                              "null",
                              "{}",
                              "[[2]]",
                              "[1,1,1,1,1,1,2]",
                              "[3]",
                              "[1]",
                              "[18446744073709551615]",
                              "[18446744073709551616]",
                              "[9223372036854775808]",
                              "[9223372036854775807]",
                              "[4294967296,4294967296]",
                              "[2305843009213693952,8]",
                              "[2,4611686018427387904]",
                              "[4611686018427387904,4,0]",
                              "[1e30]",
                              "[0]",
                              "[]"})
      CHECK(has(refusal_of_entry(std::string(R"({"dtype":"F32","data_offsets":[0,8],"shape":)") +
                                 shape + "}"),
                "tensor 'w'"));
    CHECK(has(refusal_of_entry(R"({"dtype":"F32","data_offsets":[0,8]})"), "no shape"));
  }
  SECTION("offsets") {
    for (const char* offsets :
         {"[0,7]", "[0,9]", "[1,9]", "[8,0]", "[-8,0]", "[0]", "[0,8,8]", "[0.0,8.0]", "8", "null",
          "[4,12]", "[18446744073709551608,18446744073709551616]",
          "[18446744073709551607,18446744073709551615]", "[18446744073709551612,4]"})
      CHECK(has(refusal_of_entry(std::string(R"({"dtype":"F32","shape":[2],"data_offsets":)") +
                                 offsets + "}"),
                "tensor 'w'"));
    CHECK(has(refusal_of_entry(R"({"dtype":"F32","shape":[2]})"), "no data_offsets"));
  }
  SECTION("a tensor larger than the file takes no memory") {
    const std::int64_t peak = memory_stats().live;
    reset_peak_memory();
    CHECK(has(refusal_of_entry(
                  R"({"dtype":"F32","shape":[250000000000],"data_offsets":[0,1000000000000]})"),
              "cut short"));
    CHECK(memory_stats().peak == peak);
  }
  SECTION("places") {
    const auto two = [](const std::string& first, const std::string& second) {
      const std::string entry = R"({"dtype":"F32","shape":[2],"data_offsets":)";
      return refusal("{\"a\":" + entry + first + "},\"b\":" + entry + second + "}}",
                     std::string(24, 'x'));
    };
    CHECK(has(two("[0,8]", "[4,12]"), "overlap"));
    CHECK(has(two("[0,8]", "[0,8]"), "overlap"));
    CHECK(has(two("[0,8]", "[12,20]"), "hole"));
    CHECK(has(two("[8,16]", "[16,24]"), "hole"));
    CHECK(has(two("[0,8]", "[8,16]"), "bytes of no tensor"));
  }
  SECTION("names") {
    const std::string entry = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
    CHECK(has(refusal("{\"w\":" + entry + ",\"w\":" + entry + "}", "12345678"), "twice"));
    CHECK(has(refusal(R"({"w":{"dtype":"F64","dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                      "12345678"),
              "twice"));
  }
  SECTION("metadata") {
    CHECK(has(refusal(R"({"__metadata__":[]})"), "__metadata__"));
    CHECK(has(refusal(R"({"__metadata__":{"a":1}})"), "not a string"));
  }
}

TEST_CASE("a mutated safetensors file is read or refused", "[io]") {
  const Bytes good = serialize_safetensors(sample(), {{"format", "pt"}});
  std::uint64_t header = 0;
  std::memcpy(&header, good.data(), 8);
  Generator generator(7);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    Bytes bytes = good;
    const std::int64_t changes = 1 + generator.below(3);
    for (std::int64_t c = 0; c < changes; ++c) {
      const auto place =
          static_cast<std::size_t>(generator.below(static_cast<std::int64_t>(8 + header)));
      if (generator.below(2) == 0)
        bytes[place] ^= static_cast<std::byte>(1 << generator.below(8));
      else
        bytes[place] = static_cast<std::byte>("0123456789[]{},:\"-"[generator.below(18)]);
    }
    try {
      for (const auto& [name, tensor] : parse_safetensors(bytes))
        CHECK(tensor.numel() * size_of(tensor.dtype()) <= static_cast<std::int64_t>(good.size()));
    } catch (const DataError&) {
      ++refused;
    }
  }
  CHECK(refused > 1000);
}

TEST_CASE("files that are none are refused by name", "[io]") {
  const TemporaryDirectory directory;
  const auto missing = message_of<DataError>([&] { load_safetensors(directory / "none"); });
  CHECK(has(missing, "none': cannot be opened"));
  CHECK(has(message_of<DataError>([&] { load_safetensors(directory.path()); }),
            "not a regular file"));
  CHECK_THROWS_AS(load_safetensors("/dev/zero"), DataError);
}

TEST_CASE("tensors that cannot be saved leave the old file", "[io]") {
  const TemporaryDirectory directory;
  const auto path = write_plainly(directory / "model", "old");
  CHECK_THROWS_AS(save_safetensors(path, {{"a", Tensor()}}), Error);
  CHECK_THROWS_AS(save_safetensors(path, {{"a", Tensor::abstract({1}, DType::f32)}}), Error);
  CHECK_THROWS_AS(save_safetensors(path, {{"__metadata__", Tensor::zeros({1})}}), Error);
  CHECK_THROWS_AS(save_safetensors(path, {{"\xFF", Tensor::zeros({1})}}), Error);
  CHECK_THROWS_AS(save_safetensors(path, {}, {{"a", "\xFF"}}), Error);
  CHECK_THROWS_AS(save_safetensors(directory / "no/model", sample()), Error);
  CHECK(read_plainly(path) == "old");
  CHECK(directory.files() == 1);
}
