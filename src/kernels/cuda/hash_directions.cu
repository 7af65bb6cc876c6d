// Directions of hash_codes, drawn once for each (sequence, head): a Gaussian vector, or, for randomized
// Hadamard rotations, the row of small integers that yields one coordinate. Deterministic. Cost hashes * bits *
// head_width draws for each (sequence, head).
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
  int bits, width, each, rotations;

  RotationPlan(HashShape shape, int head_width) : family(shape.family), bits(shape.bits), width(32) {
    while (width < head_width) width *= 2;
    each = width / bits;
    const int columns = shape.hashes * bits;
    rotations = family == HashFamily::hadamard ? (shape.hashes + each - 1) / each
                                               : std::max(bits, (columns + width - 1) / width);
  }
  __device__ int rotation(int column) const {
    return family == HashFamily::hadamard ? column / bits / each : column % rotations;
  }
  __device__ int coordinate(int column) const {
    return family == HashFamily::hadamard ? column / bits % each * bits + column % bits : column / rotations;
  }
};

/// In-place unnormalized Walsh-Hadamard transform of a warp's vector.
__device__ void transform(float* z, int width, int lane) {
  for (int half = 1; half < width; half *= 2) {
    __syncwarp();
    for (int i = lane; i < width / 2; i += warp_lanes) {
      const int low = i / half * 2 * half + i % half;
      const float a = z[low], b = z[low + half];
      z[low] = a + b;
      z[low + half] = a - b;
    }
  }
  __syncwarp();
}

/// A warp makes one direction: the row `coordinate` of H D3 H D2 H D1 is D1 H D2 H D3 H e.
__global__ void draw_rotated(Directions directions, RotationPlan plan, RandomStream stream,
                             const std::int64_t* sample, std::int64_t pairs) {
  extern __shared__ float vectors[];
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  float* z = vectors + static_cast<int>(threadIdx.x) / warp_lanes * plan.width;
  const std::int64_t item = thread_index() / warp_lanes;
  if (item >= pairs * directions.columns) return;
  const std::int64_t pair = item / directions.columns;
  const int column = static_cast<int>(item % directions.columns);
  const int rotation = plan.rotation(column), coordinate = plan.coordinate(column);
  const int head = directions.first_head + static_cast<int>(pair % directions.heads);
  for (int c = lane; c < plan.width; c += warp_lanes) z[c] = __popc(coordinate & c) % 2 == 0 ? 1.0f : -1.0f;
  for (int round = 2; round >= 0; --round) {
    for (int c = lane; c < plan.width; c += warp_lanes) {
      const auto element = static_cast<std::uint64_t>((rotation * 3 + round) * plan.width + c);
      const PhiloxWords words =
          stream.words(sample[pair / directions.heads], HashDraw::block(HashDraw::signs, head, element));
      const int place = c % 4;
      const std::uint32_t word = place < 2 ? (place == 0 ? words.word[0] : words.word[1])
                                           : (place == 2 ? words.word[2] : words.word[3]);
      if ((word & 0x80000000u) != 0) z[c] = -z[c];
    }
    if (round > 0) transform(z, plan.width, lane);
  }
  float* to = directions.data + item * directions.width;
  for (int c = lane; c < directions.width; c += warp_lanes) to[c] = z[c];
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
    const RotationPlan plan(shape, directions.width);
    constexpr int warps = 4;
    const std::size_t bytes = static_cast<std::size_t>(warps * plan.width) * sizeof(float);
    const auto blocks = static_cast<unsigned>((pairs * directions.columns + warps - 1) / warps);
    draw_rotated<<<blocks, warps * warp_lanes, bytes, cuda.stream>>>(directions, plan, stream, sequences.sample,
                                                                     pairs);
  }
  check_launch("hash_codes: draw");
}

}  // namespace tern::kernels
