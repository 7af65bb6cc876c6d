#include "support/golden.h"

#include <algorithm>
#include <cstring>

namespace tern::test {
namespace {

std::filesystem::path golden_folder() { return std::filesystem::path(TERN_SOURCE_DIR) / "tests" / "golden"; }

}  // namespace

Golden::Golden(const std::string& name)
    : file_(golden_folder() / (name + ".safetensors")),
      config_(io::parse_json(file_.metadata().at("config"), name)) {}

Tensor Golden::tensor(const std::string& name) const {
  const io::TensorRecord& record = file_.at(name);
  const Tensor out = empty(Shape(record.shape), record.dtype);
  std::memcpy(out.address(), record.bytes.data(), record.bytes.size());
  return out;
}

std::vector<std::int32_t> Golden::integers(const std::string& name) const {
  return tensor(name).to_vector<std::int32_t>();
}

std::vector<std::string> Golden::names(const std::string& prefix) const {
  std::vector<std::string> out;
  for (const io::TensorRecord& record : file_.tensors())
    if (record.name.starts_with(prefix)) out.push_back(record.name.substr(prefix.size()));
  return out;
}

std::vector<std::string> golden_names(const std::string& prefix) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder()))
    if (const std::string stem = entry.path().stem().string(); stem.starts_with(prefix)) out.push_back(stem);
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace tern::test
