// Golden files of tests/golden: values from PyTorch in float64, their seed and configuration inside.
#pragma once

#include <string>
#include <vector>

#include "io/json.h"
#include "io/safetensors.h"
#include "tern/tensor.h"

namespace tern::test {

class Golden {
 public:
  /// tests/golden/<name>.safetensors.
  explicit Golden(const std::string& name);
  /// float64 or int32.
  Tensor tensor(const std::string& name) const;
  std::vector<double> values(const std::string& name) const { return tensor(name).to_vector<double>(); }
  std::vector<std::int32_t> integers(const std::string& name) const;
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  /// Names that begin with `prefix`, without it.
  std::vector<std::string> names(const std::string& prefix) const;
  const io::Json& config() const { return config_; }

 private:
  io::SafetensorsFile file_;
  io::Json config_;
};

/// Names of the golden files that begin with `prefix`, in order.
std::vector<std::string> golden_names(const std::string& prefix);

}  // namespace tern::test
