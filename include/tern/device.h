// Devices, number types and the CPU instruction sets that kernels are compiled for.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>

namespace tern {

enum class DeviceType : std::uint8_t { cpu, cuda };
struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};
std::ostream& operator<<(std::ostream& out, Device device);

/// Storage types. Arithmetic kernels exist for float32 and float64, on CUDA for bfloat16 too.
enum class DType : std::uint8_t { float32, float64, bfloat16, uint8, uint16, int32, int64 };
std::string_view name(DType dtype);
std::size_t size_of(DType dtype);
bool is_floating(DType dtype);
std::ostream& operator<<(std::ostream& out, DType dtype);

/// Upper half of a float32.
struct bfloat16 {
  std::uint16_t bits = 0;
};
/// Rounds to nearest, ties to even; NaN stays NaN.
bfloat16 to_bfloat16(float value);
float to_float(bfloat16 value);

/// Type of sums, statistics, losses and parameter gradients of data stored as T (docs/numerics.md).
template <class T>
struct AccumulateOf {
  using type = T;
};
template <>
struct AccumulateOf<bfloat16> {
  using type = float;
};
template <class T>
using Accumulate = typename AccumulateOf<T>::type;
/// The same for number types known at run time.
constexpr DType accumulate_type(DType dtype) { return dtype == DType::bfloat16 ? DType::float32 : dtype; }

/// x86-64 micro-architecture levels: SSE4.2, AVX2 + FMA, AVX-512.
enum class Isa : std::uint8_t { v2, v3, v4 };
std::string_view name(Isa isa);

/// The level that this process uses: the best the processor has, or TERN_CPU_ISA=v2|v3|v4 if that is lower.
/// Throws Error(bad_config) for any other value.
Isa cpu_isa();

/// Execution context of CPU kernels. Each kernel is compiled once for each level.
template <Isa isa>
struct Cpu {};
/// Execution context of CUDA kernels: stream and library handles (base/cuda.h).
struct Cuda;

/// GPUs that this program can use: 0 for a build without CUDA, or where there is no driver or device.
int cuda_devices();
/// The GPU's name, or why there is none.
std::string cuda_description();
/// Waits for all work on `device` and reports what went wrong in it; returns at once on the CPU.
void synchronize(Device device);

struct CudaOptions {
  bool deterministic = false;  ///< no atomic additions of floating numbers: equal bits on equal devices
  bool tf32 = false;           ///< float32 products on tensor cores, operands rounded to 10 bits
};
/// Holds for all kernels launched from now on.
void set_cuda_options(CudaOptions options);

/// Threads that parallel_for uses; `count` 0 means one for each core this process may run on. Error(failed)
/// where a limit on addresses (ulimit -v) leaves no room for their matrix products.
void set_threads(int count);
int threads();

}  // namespace tern
