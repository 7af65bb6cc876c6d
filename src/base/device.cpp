// Number types and the choice of instruction set.
#include "tern/device.h"

#include <array>
#include <bit>
#include <cstdlib>

#include <omp.h>

#include "base/blas.h"
#include "base/cuda_device.h"
#include "base/has_cuda.h"
#include "tern/error.h"

namespace tern {
namespace {

struct TypeFacts {
  std::string_view name;
  std::size_t size;
};
constexpr std::array<TypeFacts, 7> type_facts{
    {{"float32", 4}, {"float64", 8}, {"bfloat16", 2}, {"uint8", 1}, {"uint16", 2}, {"int32", 4}, {"int64", 8}}};
const TypeFacts& facts(DType dtype) { return type_facts.at(static_cast<std::size_t>(dtype)); }

Isa best_isa() {
  if (__builtin_cpu_supports("x86-64-v4")) return Isa::v4;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::v3;
  return Isa::v2;
}

Isa chosen_isa() {
  const Isa best = best_isa();
  const char* asked = std::getenv("TERN_CPU_ISA");
  if (asked == nullptr || *asked == '\0') return best;
  for (const Isa isa : {Isa::v2, Isa::v3, Isa::v4})
    if (asked == name(isa)) return std::min(isa, best);
  throw_error(ExitCode::bad_config, "TERN_CPU_ISA: must be v2, v3 or v4, got {}; unset it to use the best",
              asked);
}

}  // namespace

std::string_view name(DType dtype) { return facts(dtype).name; }
std::size_t size_of(DType dtype) { return facts(dtype).size; }
bool is_floating(DType dtype) { return dtype <= DType::bfloat16; }
std::ostream& operator<<(std::ostream& out, DType dtype) { return out << name(dtype); }
std::ostream& operator<<(std::ostream& out, Device device) {
  return out << (device.type == DeviceType::cpu ? "cpu" : "cuda:" + std::to_string(device.index));
}

bfloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}
float to_float(bfloat16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }

std::string_view name(Isa isa) { return isa == Isa::v2 ? "v2" : isa == Isa::v3 ? "v3" : "v4"; }

Isa cpu_isa() {
  static const Isa isa = chosen_isa();
  return isa;
}

int cuda_devices() {
  if constexpr (has_cuda) return count_gpus();
  return 0;
}

std::string cuda_description() {
  if constexpr (has_cuda) return describe_gpu();
  return "not built in; build with the cuda preset";
}

void synchronize(Device device) {
  if constexpr (has_cuda)
    if (device.type == DeviceType::cuda) synchronize_gpu(device.index);
}

void set_cuda_options(CudaOptions options) {
  if constexpr (has_cuda) set_gpu_options(options);
}

void set_threads(int count) {
  require(count >= 0, "run.threads: must be 0 (all cores) or more, got {}", count);
  omp_set_num_threads(count == 0 ? omp_get_num_procs() : count);
  blas::reserve(threads());
}
int threads() { return omp_get_max_threads(); }

}  // namespace tern
