#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "io/atomic_file.h"
#include "io/json.h"
#include "tern/error.h"

namespace tern::io {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::string_view metadata_key = "__metadata__";
constexpr std::size_t name_cap = 1024;

struct TypeName {
  std::string_view text;
  DType dtype;
  std::uint64_t bytes;
};
constexpr std::array<TypeName, 7> type_names{{{"F64", DType::float64, 8},
                                              {"F32", DType::float32, 4},
                                              {"BF16", DType::bfloat16, 2},
                                              {"I64", DType::int64, 8},
                                              {"I32", DType::int32, 4},
                                              {"U16", DType::uint16, 2},
                                              {"U8", DType::uint8, 1}}};

const TypeName& type_of(DType dtype) {
  for (const TypeName& type : type_names) {
    if (type.dtype == dtype) return type;
  }
  throw_error(ExitCode::internal, "safetensors: dtype number {} has no name in the format; please report this",
              static_cast<int>(dtype));
}

/// Bytes of a tensor, or nothing if the product does not fit.
std::optional<std::uint64_t> byte_count(std::span<const std::int64_t> shape, std::uint64_t element_bytes) {
  std::uint64_t product = element_bytes;
  for (const std::int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(product, static_cast<std::uint64_t>(extent), &product))
      return std::nullopt;
  }
  return product;
}

/// UTF-8 is checked by the JSON layer; this leaves out control characters (C0, DEL, and C1, which is C2 80 ...
/// C2 9F).
bool is_printable(std::string_view name) {
  for (std::size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    if (byte < 0x20 || byte == 0x7F) return false;
    if (byte == 0xC2 && i + 1 < name.size() && static_cast<unsigned char>(name[i + 1]) < 0xA0) return false;
  }
  return !name.empty() && name.size() <= name_cap;
}

std::vector<const TensorRecord*> storage_order(std::span<const TensorRecord> tensors) {
  std::vector<const TensorRecord*> order;
  for (const TensorRecord& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorRecord* a, const TensorRecord* b) {
    const std::uint64_t a_bytes = type_of(a->dtype).bytes, b_bytes = type_of(b->dtype).bytes;
    return a_bytes != b_bytes ? a_bytes > b_bytes : a->name < b->name;
  });
  return order;
}

std::string header_text(const std::filesystem::path& path, std::span<const TensorRecord* const> order,
                        const Metadata& metadata) {
  Json header = Json::object();
  auto& members = static_cast<Json::object_t::Container&>(header.get_ref<Json::object_t&>());
  if (!metadata.empty()) members.emplace_back(std::string(metadata_key), metadata);
  std::vector<std::string_view> names;
  std::uint64_t begin = 0;
  for (const TensorRecord* tensor : order) {
    const TypeName& type = type_of(tensor->dtype);
    require(is_printable(tensor->name) && tensor->name != metadata_key,
            "{}: tensor names must be 1 to {} printable bytes and not {}, got {}", path, name_cap, metadata_key,
            tensor->name);
    require(byte_count(tensor->shape, type.bytes) == tensor->bytes.size(),
            "{}: {} of shape {} and type {} must have as many bytes as its shape says, got {}", path,
            tensor->name, tensor->shape, type.text, tensor->bytes.size());
    names.push_back(tensor->name);
    members.emplace_back(tensor->name, Json{{"dtype", type.text},
                                            {"shape", tensor->shape},
                                            {"data_offsets", {begin, begin + tensor->bytes.size()}}});
    begin += tensor->bytes.size();
  }
  std::sort(names.begin(), names.end());
  const auto repeated = std::adjacent_find(names.begin(), names.end());
  if (repeated != names.end()) require(false, "{}: tensor names must differ, got {} twice", path, *repeated);
  std::string text = dump_json(header);
  text.append((8 - text.size() % 8) % 8, ' ');
  require(text.size() <= SafetensorsFile::default_header_cap,
          "{}: the header must be at most {} bytes, got {}; store fewer tensors", path,
          SafetensorsFile::default_header_cap, text.size());
  return text;
}

/// Reads one file's header into records; every fault leaves through fail().
class HeaderReader {
 public:
  HeaderReader(const std::filesystem::path& path, std::span<const std::byte> file, std::uint64_t cap)
      : where_(path.string()), file_(file), cap_(cap) {}

  void read(Metadata& metadata, std::vector<TensorRecord>& tensors) {
    const Json header = parse_json(header_text(), where_, static_cast<std::size_t>(cap_));
    for (const auto& [key, value] : header.items()) {
      if (key == metadata_key) {
        read_metadata(value, metadata);
      } else {
        tensors.push_back(read_tensor(key, value));
      }
    }
    // Empty tensors come before the tensor that begins at the same place.
    const auto span_order = [](const TensorRecord& a, const TensorRecord& b) {
      return a.bytes.data() != b.bytes.data() ? a.bytes.data() < b.bytes.data()
                                              : a.bytes.size() < b.bytes.size();
    };
    std::stable_sort(tensors.begin(), tensors.end(), span_order);
    check_cover(tensors);
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(Message<std::type_identity_t<Args>...> reason, const Args&... args) const {
    throw_error(ExitCode::bad_data, "{}: not a valid safetensors file: {}; copy or make it again", where_,
                format_text<Args...>(reason, args...));
  }

  std::string_view header_text() {
    if (file_.size() < 8) fail("it must have at least 8 bytes, got {}", file_.size());
    std::uint64_t length = 0;
    std::memcpy(&length, file_.data(), 8);
    if (length > cap_) fail("its header must be at most {} bytes, got {}", cap_, length);
    if (length > file_.size() - 8) {
      fail("its header of {} bytes must fit the file of {} bytes", length, file_.size());
    }
    data_ = file_.subspan(8 + static_cast<std::size_t>(length));
    const std::string_view text(reinterpret_cast<const char*>(file_.data()) + 8,
                                static_cast<std::size_t>(length));
    if (!text.starts_with('{')) fail("its header must begin with an opening brace");
    return text;
  }

  void read_metadata(const Json& value, Metadata& metadata) const {
    if (!value.is_object()) fail("{} must be an object of strings", metadata_key);
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail("{} must hold strings only, got another type at {}", metadata_key, key);
      metadata.emplace(key, text.get<std::string>());
    }
  }

  TensorRecord read_tensor(const std::string& name, const Json& value) const {
    if (!is_printable(name))
      fail("tensor names must be 1 to {} printable bytes, got {}", name_cap, dump_json(name));
    if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets")) {
      fail("{} must have exactly dtype, shape and data_offsets", name);
    }
    const Json& dtype = value["dtype"];
    const auto type = std::find_if(type_names.begin(), type_names.end(), [&](const TypeName& candidate) {
      return dtype.is_string() && dtype.get_ref<const std::string&>() == candidate.text;
    });
    if (type == type_names.end()) {
      fail("the type of {} must be F64, F32, BF16, I64, I32, U16 or U8, got {}", name, dump_json(dtype));
    }
    TensorRecord tensor{name, type->dtype, {}, {}};
    for (const std::uint64_t extent : numbers(value["shape"], name, "shape")) {
      tensor.shape.push_back(static_cast<std::int64_t>(extent));
    }
    const std::vector<std::uint64_t> span = numbers(value["data_offsets"], name, "data_offsets");
    if (span.size() != 2 || span[0] > span[1] || span[1] > data_.size()) {
      fail("data_offsets of {} must be a span inside the {} bytes of data, got {}", name, data_.size(), span);
    }
    if (byte_count(tensor.shape, type->bytes) != span[1] - span[0]) {
      fail("{} of shape {} and type {} must fill its span, got {} bytes", name, tensor.shape, type->text,
           span[1] - span[0]);
    }
    tensor.bytes =
        data_.subspan(static_cast<std::size_t>(span[0]), static_cast<std::size_t>(span[1] - span[0]));
    return tensor;
  }

  /// Integers of an array that fit int64.
  std::vector<std::uint64_t> numbers(const Json& array, const std::string& name, std::string_view key) const {
    if (!array.is_array()) fail("{} of {} must be an array", key, name);
    std::vector<std::uint64_t> values;
    for (const Json& item : array) {
      if (!item.is_number_unsigned() || item.get<std::uint64_t>() > std::uint64_t{INT64_MAX}) {
        fail("{} of {} must hold integers from 0 to 2^63 - 1", key, name);
      }
      values.push_back(item.get<std::uint64_t>());
    }
    return values;
  }

  void check_cover(std::span<const TensorRecord> tensors) const {
    std::size_t end = 0;
    for (const TensorRecord& tensor : tensors) {
      const auto begin = static_cast<std::size_t>(tensor.bytes.data() - data_.data());
      if (begin != end) {
        fail("{} must begin where the tensor before it ends, at {}, got {}", tensor.name, end, begin);
      }
      end += tensor.bytes.size();
    }
    if (end != data_.size())
      fail("the file must end with its last tensor; {} more bytes follow", data_.size() - end);
  }

  std::string where_;
  std::span<const std::byte> file_, data_;
  std::uint64_t cap_;
};

}  // namespace

WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const TensorRecord> tensors,
                              const Metadata& metadata) {
  const std::vector<const TensorRecord*> order = storage_order(tensors);
  const std::string header = header_text(path, order, metadata);
  const std::uint64_t length = header.size();
  AtomicFile file(path);
  Hasher hasher;
  const auto write = [&](std::span<const std::byte> bytes) {
    file.write(bytes);
    hasher.update(bytes);
  };
  write(std::as_bytes(std::span(&length, 1)));
  write(std::as_bytes(std::span(header)));
  for (const TensorRecord* tensor : order) write(tensor->bytes);
  file.commit();
  return {file.size(), hasher.digest()};
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path, std::uint64_t header_cap) : file_(path) {
  HeaderReader(path, file_.bytes(), header_cap).read(metadata_, tensors_);
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const TensorRecord* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const TensorRecord& SafetensorsFile::at(std::string_view name) const {
  const TensorRecord* found = find(name);
  if (found == nullptr) throw_error(ExitCode::bad_data, "{}: tensor {} is missing", path(), name);
  return *found;
}

}  // namespace tern::io
