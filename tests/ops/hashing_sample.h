// Queries, keys and values of ragged sequences in two heads, and where the tests of hashing run.
#pragma once

#include <algorithm>
#include <vector>

#include "support/attention_by_definition.h"
#include "support/devices.h"
#include "support/op_case.h"

namespace tern::test {

struct Sample {
  SequenceLayout layout;
  std::vector<Tensor> qkv;
};

inline Sample sample_of(const std::vector<int>& lengths, std::int64_t width, DType dtype = DType::float64,
                 Device device = {}) {
  const SequenceLayout layout = layout_of(lengths, std::max(200, std::ranges::max(lengths)));
  const Shape shape{layout.tokens(), 2, width};
  const std::vector<Tensor> qkv{tensor_of(unit_array(normal_array(shape, 160)), dtype, device),
                                tensor_of(unit_array(normal_array(shape, 161)), dtype, device),
                                tensor_of(normal_array(shape, 162), dtype, device)};
  return {on(qkv[0], layout), qkv};
}

struct Place {
  Device device;
  DType dtype;
};
/// Number types by device.
inline std::vector<Place> places() {
  std::vector<Place> out{{{}, DType::float64}};
  for (const Device device : test_devices())
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16})
      if (device.type == DeviceType::cuda) out.push_back({device, dtype});
  return out;
}

}  // namespace tern::test
