#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <unroll/graph/bytes.h>
#include <unroll/io/atomic_file.h>
#include <unroll/io/fail_data.h>
#include <unroll/io/safetensors.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

namespace unroll {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are copied as they are");

using nlohmann::json;

constexpr std::uint64_t length_bytes = 8;
constexpr std::uint64_t longest_header = 100'000'000;  // the format's own limit

// What a file says about one tensor.
struct Entry {
  std::string name;
  DType dtype;  // in memory
  bool half;    // F16 in the file
  Shape shape;
  std::uint64_t begin, end;  // bytes, counted from the end of the header
};

// A file or memory: its size, and a copy of some bytes of it.
struct Source {
  std::string name;
  std::uint64_t size;
  std::function<void(std::uint64_t offset, std::byte* into, std::size_t count)> read;

  [[noreturn]] void fail(const std::string& problem, const std::string& hint = {}) const {
    fail_data("safetensors", fmt::format("'{}': {}", name, problem), hint);
  }
};

// At most 60 characters of what somebody else wrote.
std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

json parse_header(const Source& source, const std::string& text) {
  // nlohmann's parser keeps the last of several equal keys and any depth: both are refused here.
  constexpr int deepest = 4;
  std::vector<std::set<std::string>> keys(deepest + 1);
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      if (depth >= deepest) source.fail("the header is nested too deeply");
      keys[depth + 1].clear();
    }
    if (event == json::parse_event_t::key && !keys[depth].insert(parsed).second)
      source.fail(fmt::format("the header has {} twice", shown(parsed)));
    return true;
  };
  if (text.empty() || text.front() != '{') source.fail("the header does not begin with '{'");
  // nlohmann's parser would take it for the end.
  if (text.find('\0') != std::string::npos) source.fail("the header contains a zero byte");
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    source.fail(fmt::format("the header is not valid JSON: {:.200}", error.what()));
  }
}

void read_dtype(const Source& source, const json& value, Entry& entry) {
  static const std::map<std::string, DType> kept = {
      {"F64", DType::f64}, {"F32", DType::f32}, {"BF16", DType::bf16}, {"I64", DType::i64},
      {"I32", DType::i32}, {"U8", DType::u8},   {"BOOL", DType::u8},   {"F16", DType::f32}};
  const auto found = value.is_string() ? kept.find(value) : kept.end();
  if (found == kept.end())
    source.fail(fmt::format("tensor '{}' has dtype {}", entry.name, shown(value)),
                "F64, F32, F16, BF16, I64, I32, U8 and BOOL can be read");
  entry.dtype = found->second;
  entry.half = found->first == "F16";
}

void read_shape(const Source& source, const json& value, Entry& entry) {
  const auto refuse = [&](const char* why) {
    source.fail(fmt::format("tensor '{}' has shape {}, {}", entry.name, shown(value), why));
  };
  if (!value.is_array()) refuse("which is not a list");
  if (value.size() > Shape::max_rank) refuse("which has too many axes");
  std::vector<std::int64_t> sizes;
  std::int64_t bytes = size_of(entry.dtype);
  for (const json& size : value) {
    // An integer that does not fit 64 bits arrives here as a floating number.
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() > INT64_MAX)
      refuse("with a size that is not a count");
    sizes.push_back(size.get<std::int64_t>());
    if (__builtin_mul_overflow(bytes, sizes.back(), &bytes)) refuse("which is too large");
  }
  entry.shape = Shape(sizes);
}

void read_offsets(const Source& source, const json& value, Entry& entry) {
  if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() ||
      !value[1].is_number_unsigned())
    source.fail(
        fmt::format("tensor '{}' has data_offsets {}, not two counts", entry.name, shown(value)));
  entry.begin = value[0];
  entry.end = value[1];
  const std::uint64_t bytes =
      static_cast<std::uint64_t>(entry.shape.numel()) * (entry.half ? 2 : size_of(entry.dtype));
  if (entry.end < entry.begin || entry.end - entry.begin != bytes)
    source.fail(fmt::format("tensor '{}' {} {} needs {} bytes, its data_offsets are {}", entry.name,
                            to_string(entry.dtype), to_string(entry.shape), bytes, shown(value)));
}

Entry read_entry(const Source& source, const std::string& name, const json& value) {
  Entry entry{.name = name, .dtype = {}, .half = false, .shape = {}, .begin = 0, .end = 0};
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!value.is_object() || !value.contains(key))
      source.fail(fmt::format("tensor '{}' has no {}", name, key));
  read_dtype(source, value["dtype"], entry);
  read_shape(source, value["shape"], entry);
  read_offsets(source, value["data_offsets"], entry);
  return entry;
}

Metadata read_metadata(const Source& source, const json& value) {
  Metadata result;
  if (!value.is_object()) source.fail("__metadata__ is not an object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      source.fail(fmt::format("__metadata__ '{}' is {}, not a string", key, shown(text)));
    result[key] = text;
  }
  return result;
}

// The tensors one after another, without a hole or an overlap, up to the end of the data.
void check_places(const Source& source, std::vector<Entry>& entries, std::uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t place = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != place)
      source.fail(fmt::format("tensor '{}' begins at byte {} of the data, expected {}: {}",
                              entry.name, entry.begin, place,
                              entry.begin < place ? "tensors overlap" : "there is a hole"));
    place = entry.end;
  }
  if (place != data_bytes)
    source.fail(fmt::format("the tensors take {} bytes, the file has {} after its header", place,
                            data_bytes),
                place > data_bytes ? "The file is cut short" : "The file has bytes of no tensor");
}

float from_half(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  const std::uint32_t exponent = (half >> 10) & 31, fraction = half & 1023;
  if (exponent == 0)  // zero and subnormals: fraction * 2^-24
    return std::copysign(static_cast<float>(fraction) * 0x1p-24f, sign != 0 ? -1.0f : 1.0f);
  const std::uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

Tensor read_tensor(const Source& source, const Entry& entry, std::uint64_t data_begin) {
  Tensor tensor = Tensor::empty(entry.shape, entry.dtype);
  const auto count = static_cast<std::size_t>(entry.end - entry.begin);
  if (count == 0) return tensor;
  if (!entry.half) {
    source.read(data_begin + entry.begin, tensor.bytes(), count);
    return tensor;
  }
  std::vector<std::uint16_t> halves(count / 2);
  source.read(data_begin + entry.begin, reinterpret_cast<std::byte*>(halves.data()), count);
  std::transform(halves.begin(), halves.end(), tensor.mutable_ptr<float>(), from_half);
  return tensor;
}

std::map<std::string, Tensor> read_all(const Source& source, Metadata* metadata) {
  if (source.size < length_bytes)
    source.fail(fmt::format("{} bytes are too few for a header", source.size));
  std::uint64_t length = 0;
  source.read(0, reinterpret_cast<std::byte*>(&length), length_bytes);
  if (length > longest_header)
    source.fail(fmt::format("a header of {} bytes; at most {}", length, longest_header),
                "Is it a safetensors file?");
  if (length > source.size - length_bytes)
    source.fail(fmt::format("a header of {} bytes in a file of {}", length, source.size),
                "The file is cut short, or not a safetensors file");
  std::string text(length, '\0');
  source.read(length_bytes, reinterpret_cast<std::byte*>(text.data()), length);

  const json header = parse_header(source, text);
  std::vector<Entry> entries;
  Metadata found;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__")
      found = read_metadata(source, value);
    else
      entries.push_back(read_entry(source, name, value));
  }
  const std::uint64_t data_begin = length_bytes + length;
  check_places(source, entries, source.size - data_begin);

  std::map<std::string, Tensor> tensors;
  for (const Entry& entry : entries) tensors[entry.name] = read_tensor(source, entry, data_begin);
  if (metadata != nullptr) *metadata = std::move(found);
  return tensors;
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::f64:
      return "F64";
    case DType::bf16:
      return "BF16";
    case DType::i32:
      return "I32";
    case DType::i64:
      return "I64";
    case DType::u8:
      return "U8";
  }
  return "?";
}

// Calls write(bytes) with the parts of the file in order.
template <class Write>
void write_all(const std::map<std::string, Tensor>& tensors, const Metadata& metadata,
               Write write) {
  // Widest elements first, as the format's own writer does it: every tensor is aligned.
  std::vector<const std::pair<const std::string, Tensor>*> order;
  order.reserve(tensors.size());
  for (const auto& entry : tensors) order.push_back(&entry);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return size_of(a->second.dtype()) > size_of(b->second.dtype());
  });

  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t place = 0;
  for (const auto* entry : order) {
    const auto& [name, tensor] = *entry;
    if (!tensor.defined() || tensor.is_abstract())
      fail("save_safetensors", fmt::format("'{}' is {}, without data", name, to_string(tensor)));
    if (name == "__metadata__")
      fail("save_safetensors", "a tensor is named '__metadata__', which the format reserves");
    const std::size_t end = place + bytes_of(tensor);
    header[name] = {{"dtype", dtype_name(tensor.dtype())},
                    {"shape", std::vector(tensor.shape().begin(), tensor.shape().end())},
                    {"data_offsets", {place, end}}};
    place = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    fail("save_safetensors", "a name or a piece of metadata is not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > longest_header)
    fail("save_safetensors",
         fmt::format("a header of {} bytes; the format allows {}", text.size(), longest_header));

  const std::uint64_t length = text.size();
  write(std::as_bytes(std::span(&length, 1)));
  write(std::as_bytes(std::span(text)));
  for (const auto* entry : order) write(std::span(entry->second.bytes(), bytes_of(entry->second)));
}

// An open file, closed at the end.
struct File {
  explicit File(const std::filesystem::path& path)
      : descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor >= 0) ::close(descriptor);
  }
  const int descriptor;
};

}  // namespace

std::map<std::string, Tensor> load_safetensors(const std::filesystem::path& path,
                                               Metadata* metadata) {
  Source source{.name = path.string(), .size = 0, .read = {}};
  // Before the file is opened: opening a pipe would wait for its writer.
  std::error_code error;
  if (const auto status = std::filesystem::status(path, error);
      std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    source.fail("not a regular file");
  const File file(path);
  struct stat status {};
  if (file.descriptor < 0 || ::fstat(file.descriptor, &status) != 0)
    source.fail(fmt::format("cannot be opened: {}", std::strerror(errno)));
  source.size = static_cast<std::uint64_t>(status.st_size);
  source.read = [&](std::uint64_t offset, std::byte* into, std::size_t count) {
    while (count > 0) {
      const ssize_t got = ::pread(file.descriptor, into, count, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) source.fail(fmt::format("cannot be read: {}", std::strerror(errno)));
      if (got == 0) source.fail(fmt::format("ends at byte {} while it is read", offset));
      into += got;
      offset += static_cast<std::uint64_t>(got);
      count -= static_cast<std::size_t>(got);
    }
  };
  return read_all(source, metadata);
}

void save_safetensors(const std::filesystem::path& path,
                      const std::map<std::string, Tensor>& tensors, const Metadata& metadata) {
  AtomicFile file(path);
  write_all(tensors, metadata, [&](std::span<const std::byte> bytes) { file.write(bytes); });
  file.commit();
}

std::map<std::string, Tensor> parse_safetensors(std::span<const std::byte> bytes,
                                                Metadata* metadata, const std::string& name) {
  return read_all(
      {.name = name,
       .size = bytes.size(),
       .read = [=](std::uint64_t offset, std::byte* into,
                   std::size_t count) { std::memcpy(into, bytes.data() + offset, count); }},
      metadata);
}

std::vector<std::byte> serialize_safetensors(const std::map<std::string, Tensor>& tensors,
                                             const Metadata& metadata) {
  std::vector<std::byte> result;
  write_all(tensors, metadata, [&](std::span<const std::byte> bytes) {
    result.insert(result.end(), bytes.begin(), bytes.end());
  });
  return result;
}

}  // namespace unroll
