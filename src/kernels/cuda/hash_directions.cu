// Directions of hash_codes, drawn once for each (sequence, head): a Gaussian vector, or, for randomized
// Hadamard rotations, the row of small integers that yields one coordinate. Deterministic. Cost for each
// (sequence, head): hashes * bits * head_width draws, or that many times log2(head_width) additions.
#include "base/normal.h"
#include "kernels/cuda/hash_codes.cuh"

namespace tern::kernels {
namespace {

__device__ float round_to_bfloat16(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  return __uint_as_float((bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u);
}

/// A thread draws four neighbouring elements.
__global__ void draw_gaussian(Directions directions, RandomStream stream, const std::int64_t* sample,
                              std::int64_t pairs) {
  const int elements = directions.columns * directions.width, blocks = (elements + 3) / 4;
  for (std::int64_t i = thread_index(); i < pairs * blocks; i += grid_threads()) {
    const std::int64_t pair = i / blocks;
    const int first = static_cast<int>(i % blocks) * 4;
    const int head = directions.first_head + static_cast<int>(pair % directions.heads);
    float drawn[4];
    normals_of(stream.words(sample[pair / directions.heads],
                            HashDraw::block(HashDraw::directions, head, static_cast<std::uint64_t>(first))),
               drawn);
    float* to = directions.data + pair * elements + first;
#pragma unroll
    for (int u = 0; u < 4; ++u)
      if (first + u < elements) to[u] = round_to_bfloat16(drawn[u]);
  }
}

/// Which coordinate of which rotation is a bit of a hash (tern/bernoulli.h).
struct RotationPlan {
  HashFamily family;
  int width, taken, rotations;  ///< coordinates that are taken of each rotation

  RotationPlan(HashShape shape, int head_width) : family(shape.family), width(32) {
    while (width < head_width) width *= 2;
    const int columns = shape.hashes * shape.bits, each = width / shape.bits;
    taken = family == HashFamily::hadamard ? each * shape.bits : width;
    rotations = family == HashFamily::hadamard ? (shape.hashes + each - 1) / each
                                               : std::max(shape.bits, (columns + width - 1) / width);
  }
  /// The column of the directions that `coordinate` < taken of `rotation` makes.
  __device__ int column(int rotation, int coordinate) const {
    return family == HashFamily::hadamard ? rotation * taken + coordinate : coordinate * rotations + rotation;
  }
};

__device__ __forceinline__ void butterfly(float& low, float& high) {
  const float a = low, b = high;
  low = a + b;
  high = a - b;
}

/// In-place unnormalized Walsh-Hadamard transform of a warp's vector.
__device__ void transform(float* z, int width, int lane) {
  for (int half = 1; half < width; half *= 2) {
    __syncwarp();
    for (int i = lane; i < width / 2; i += warp_lanes) {
      const int low = i / half * 2 * half + i % half;
      butterfly(z[low], z[low + half]);
    }
  }
  __syncwarp();
}

/// The same of a thread's vector, whose elements lie `stride` apart.
__device__ void transform_alone(float* z, int width, int stride) {
  for (int half = 1; half < width; half *= 2)
    for (int first = 0; first < width; first += 2 * half)
      for (int a = first; a < first + half; ++a) butterfly(z[a * stride], z[(a + half) * stride]);
}

/// A block of one warp makes `together` columns of one rotation, a thread column j. The entry (a, j) of H D2 H
/// is f[a ^ j], f = H d2; so column j of H D3 H D2 H D1 is d1[j] times the transform of d3[a] f[a ^ j] over a.
__global__ void draw_rotated(Directions directions, RotationPlan plan, int together, RandomStream stream,
                             const std::int64_t* sample, int pairs) {
  extern __shared__ float shared[];
  const int lane = static_cast<int>(threadIdx.x), rotation = static_cast<int>(blockIdx.x) % plan.rotations,
            j = static_cast<int>(blockIdx.x) / plan.rotations * together + lane;
  float *const f = shared, *const d3 = f + plan.width, *const z = d3 + plan.width + lane;
  for (int pair = static_cast<int>(blockIdx.y); pair < pairs; pair += static_cast<int>(gridDim.y)) {
    const int head = directions.first_head + pair % directions.heads;
    const auto sign = [&](int round, int c) {
      const auto element = static_cast<std::uint64_t>((rotation * 3 + round) * plan.width + c);
      const PhiloxWords words =
          stream.words(sample[pair / directions.heads], HashDraw::block(HashDraw::signs, head, element));
      const std::uint32_t low = c % 2 == 0 ? words.word[0] : words.word[1],
                          high = c % 2 == 0 ? words.word[2] : words.word[3];
      return ((c % 4 < 2 ? low : high) & 0x80000000u) != 0 ? -1.0f : 1.0f;
    };
    for (int c = lane; c < plan.width; c += warp_lanes) {
      f[c] = sign(1, c);
      d3[c] = sign(2, c);
    }
    transform(f, plan.width, lane);
    if (lane < together && j < directions.width) {
      for (int a = 0; a < plan.width; ++a) z[a * together] = d3[a] * f[a ^ j];
      transform_alone(z, plan.width, together);
      const float d1 = sign(0, j);
      float* const to =
          directions.data + static_cast<std::int64_t>(pair) * directions.columns * directions.width;
      for (int i = 0; i < plan.taken; ++i) {
        const int column = plan.column(rotation, i);
        if (column < directions.columns) to[column * directions.width + j] = d1 * z[i * together];
      }
    }
    __syncwarp();
  }
}

void launch_rotated(Cuda& cuda, const Directions& directions, HashShape shape, const Sequences& sequences,
                    const RandomStream& stream) {
  const RotationPlan plan(shape, directions.width);
  constexpr std::int64_t most_in_y = 65535;
  const std::int64_t pairs = sequences.count * directions.heads;
  const int row_bytes = plan.width * static_cast<int>(sizeof(float)),
            together = std::clamp(cuda.shared_memory / row_bytes - 2, 1, warp_lanes),
            tiles = (directions.width + together - 1) / together, bytes = row_bytes * (together + 2);
  check_cuda(cudaFuncSetAttribute(draw_rotated, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "hash_codes: shared memory");
  const dim3 blocks(static_cast<unsigned>(plan.rotations * tiles),
                    static_cast<unsigned>(std::min(pairs, most_in_y)));
  draw_rotated<<<blocks, warp_lanes, static_cast<std::size_t>(bytes), cuda.stream>>>(
      directions, plan, together, stream, sequences.sample, static_cast<int>(pairs));
}

}  // namespace

void draw_directions(Cuda& cuda, const Directions& directions, HashShape shape, const Sequences& sequences,
                     const RandomStream& stream) {
  const std::int64_t pairs = sequences.count * directions.heads;
  if (shape.family == HashFamily::gaussian) {
    const std::int64_t draws = pairs * ((directions.columns * directions.width + 3) / 4);
    draw_gaussian<<<grid_for(cuda, draws, 256), 256, 0, cuda.stream>>>(directions, stream, sequences.sample,
                                                                       pairs);
  } else {
    launch_rotated(cuda, directions, shape, sequences, stream);
  }
  check_launch("hash_codes: draw");
}

}  // namespace tern::kernels
