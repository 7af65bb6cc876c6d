// The random streams give the same words on the device as on the host.
#include <cstdlib>
#include <vector>

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "tern/random.h"

namespace {

__global__ void draw(tern::PhiloxKey key, const std::uint32_t* step, int count, tern::PhiloxWords* out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = tern::RandomStream{key, step}.words(7 + i % 3, static_cast<std::uint64_t>(i) << 20);
}

TEST(CudaRandom, DeviceDrawsTheHostsWords) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    ASSERT_EQ(std::getenv("TERN_REQUIRE_CUDA"), nullptr)
        << "TERN_REQUIRE_CUDA is set, but there is no CUDA device";
    GTEST_SKIP() << "no CUDA device";
  }
  constexpr int count = 1000;
  const tern::PhiloxKey key{0x12345678u, 0x9ABCDEF0u};
  std::uint32_t* step = nullptr;
  tern::PhiloxWords* words = nullptr;
  ASSERT_EQ(cudaMallocManaged(&step, sizeof *step), cudaSuccess);
  ASSERT_EQ(cudaMallocManaged(&words, count * sizeof *words), cudaSuccess);
  *step = 41;
  draw<<<(count + 127) / 128, 128>>>(key, step, count, words);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  for (int i = 0; i < count; ++i) {
    const tern::PhiloxWords expected =
        tern::RandomStream{key, step}.words(7 + i % 3, static_cast<std::uint64_t>(i) << 20);
    for (int w = 0; w < 4; ++w) ASSERT_EQ(words[i].word[w], expected.word[w]) << "draw " << i << ", word " << w;
  }
  cudaFree(step);
  cudaFree(words);
}

}  // namespace
