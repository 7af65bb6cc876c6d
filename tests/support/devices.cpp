#include "support/devices.h"

#include <cstdlib>
#include <map>

#include <gtest/gtest.h>

namespace tern::test {

std::vector<Device> test_devices() {
  std::vector<Device> devices{{}};
  if (cuda_devices() > 0) devices.push_back({DeviceType::cuda, 0});
  return devices;
}

Tensor on(const Tensor& like, const Tensor& x) {
  if (!x.defined() || x.device() == like.device()) return x;
  const Tensor out = empty(x.shape(), x.dtype(), like.device());
  copy(x, out);
  return out;
}

SequenceLayout on(const Tensor& like, const SequenceLayout& layout) {
  SequenceLayout out = layout;
  for (Tensor* array : {&out.offsets, &out.position, &out.sample, &out.order, &out.token_sample})
    *array = on(like, *array);
  return out;
}

RowCoordinates on(const Tensor& like, const RowCoordinates& rows) {
  return {on(like, rows.sample), on(like, rows.position)};
}

/// The step of a stream is read in memory of the device: one copy for each value stays there.
RandomStream on(const Tensor& like, const RandomStream& stream) {
  if (like.device().type == DeviceType::cpu || stream.step == nullptr) return stream;
  static auto* copies = new std::map<std::uint32_t, Tensor>;
  Tensor& copy_of_step = (*copies)[*stream.step];
  if (!copy_of_step.defined())
    copy_of_step =
        from_vector(std::vector<std::int32_t>{static_cast<std::int32_t>(*stream.step)}, {1}, like.device());
  return {stream.key, reinterpret_cast<const std::uint32_t*>(copy_of_step.address())};
}

DropoutOptions on(const Tensor& like, const DropoutOptions& options) {
  return {options.rate, on(like, options.stream)};
}

namespace {

TEST(Devices, cuda_is_tested) {
  if (cuda_devices() > 0) return;
  ASSERT_EQ(std::getenv("TERN_REQUIRE_CUDA"), nullptr)
      << "TERN_REQUIRE_CUDA is set, but there is no GPU: " << cuda_description();
  GTEST_SKIP() << "nothing runs on a GPU here: " << cuda_description();
}

}  // namespace
}  // namespace tern::test
