// Tiny runs on a GPU, of one attention mechanism.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/cuda_memory.h"
#include "support/tiny_run.h"
#include "tern/logging.h"

namespace tern::test {

inline std::vector<std::string> joined(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Skips its tests without a GPU, and says why; the parameter is the mechanism.
class CudaRun : public testing::TestWithParam<std::string> {
 protected:
  TemporaryFolder temporary;
  std::filesystem::path data = temporary / "data";
  void SetUp() override {
    if (cuda_devices() == 0) {
      ASSERT_EQ(std::getenv("TERN_REQUIRE_CUDA"), nullptr) << cuda_description();
      GTEST_SKIP() << cuda_description();
    }
    logging::set_level(logging::Level::error);
    prepare();
  }
  void TearDown() override { logging::set_level(logging::Level::info); }

  virtual void prepare() { prepare_tiny_data(data); }
};

}  // namespace tern::test
