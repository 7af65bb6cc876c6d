// The devices that tests run on, and arguments of ops in the memory of the device that an input lies on.
#pragma once

#include <vector>

#include "tern/ops.h"

namespace tern::test {

/// The CPU, and the first GPU where there is one. Without a GPU the tests on it are left out, which the test
/// Devices.cuda_is_tested of every program says.
std::vector<Device> test_devices();

Tensor on(const Tensor& like, const Tensor& x);
SequenceLayout on(const Tensor& like, const SequenceLayout& layout);
RowCoordinates on(const Tensor& like, const RowCoordinates& rows);
RandomStream on(const Tensor& like, const RandomStream& stream);
DropoutOptions on(const Tensor& like, const DropoutOptions& options);

}  // namespace tern::test
