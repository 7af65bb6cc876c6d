// Parameters and moments as safetensors files.
#pragma once

#include "io/safetensors.h"
#include "tern/checkpoint.h"

namespace tern {

/// The elements of `block`, which is laid out as store.values(), in host memory and without the gaps
/// between parameters: [store.count()].
Tensor packed_on_host(const ParameterStore& store, const Tensor& block);

/// Bytes of a contiguous host tensor.
inline std::span<const std::byte> bytes_of(const Tensor& x) {
  return {x.address(), static_cast<std::size_t>(x.count()) * size_of(x.dtype())};
}

/// Reads the master values; store.round_values() when all are read. Error(bad_data) where they are missing or
/// differ in shape or type.
void read_parameter(const io::SafetensorsFile& file, const Parameter& parameter);

void save_moments(const std::filesystem::path& file, const ParameterStore& store, const AdamW& optimizer);
void load_moments(const std::filesystem::path& file, const ParameterStore& store, AdamW& optimizer);

}  // namespace tern
