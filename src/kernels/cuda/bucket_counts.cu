// Sums of colliding rows as products on tensor cores: a block counts how often its queries collide with a run
// of keys (collision_counts.cuh) and multiplies the counts by the values, run after run. Counts are exact in
// bfloat16 and sums are float32. Buckets of many keys come in as summed rows at the end. Deterministic. Cost:
// length * width products a row, and a walk over the row's words for each run of keys.
#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/bucket_gather.h"
#include "kernels/cuda/collision_counts.cuh"
#include "kernels/layer_norm.h"

namespace tern::kernels {
namespace {

constexpr int threads = 256, rows = 128, columns = 512, blocks = 2;
constexpr int stage_rows = 128;            ///< values on their way to shared memory
constexpr int half_rows = stage_rows / 2;  ///< each half of the warps takes one half of a stage
constexpr int crowded_together = 8;        ///< summed rows of a row that are on their way at a time
constexpr int warp_rows = 32;              ///< of the product; four warps have all rows of the block

using Tile = CountTile<rows, columns, threads>;

struct CountArguments {
  BucketCounts work;
  CountSource source;
  std::int64_t slots;
  bool values_by_packs, out_by_packs;
};

template <int width>
struct CountMemory {
  static constexpr int stage_bytes = stage_rows * 2 * width;
  static constexpr int sum_stride = width + 8;  ///< floats: halves of a warp's pairs meet all banks
  static constexpr int bytes = 2 * stage_bytes + Tile::counts_bytes + Tile::scratch_bytes;
  static_assert(rows * sum_stride * 4 <= Tile::counts_bytes);
};

/// A warp's 32 rows of the sums.
template <int width>
using RowSums = float[2][width / 8][4];

/// sums += counts . values for half a stage; `run`: of 64 columns in the tile.
template <int width>
__device__ __forceinline__ void add_half(RowSums<width>& sums, const Tile& tile, int run,
                                         std::uint32_t values) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const int row = static_cast<int>(threadIdx.x) / warp_lanes % 4 * warp_rows + lane / 4;
  uint4 counts[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) counts[i] = tile.load(row + 8 * i, run);
#pragma unroll
  for (int u = 0; u < half_rows / 16; ++u) {
    const auto word = [&](int i) {
      return u == 0 ? counts[i].x : u == 1 ? counts[i].y : u == 2 ? counts[i].z : counts[i].w;
    };
    const Fragment a[2] = {count_fragment(word(0), word(1)), count_fragment(word(2), word(3))};
#pragma unroll
    for (int n = 0; n < width / 16; ++n) {
      const Fragment b = load_transposed_fragment((values + u * 16 * 2 * width) ^ n << 5);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        multiply_add(sums[m][2 * n], a[m], b.word[0], b.word[1]);
        multiply_add(sums[m][2 * n + 1], a[m], b.word[2], b.word[3]);
      }
    }
  }
}

/// Adds a warp's rows of sums to those in shared memory, or puts them there.
template <int width, bool adds>
__device__ __forceinline__ void put_sums(const RowSums<width>& sums, float* to) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  const int row = static_cast<int>(threadIdx.x) / warp_lanes % 4 * warp_rows + lane / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int n = 0; n < width / 8; ++n) {
      auto* place =
          reinterpret_cast<float2*>(to + (row + 8 * i) * CountMemory<width>::sum_stride + 8 * n + lane % 4 * 2);
      const float* own = sums[i / 2][n] + i % 2 * 2;
      float2 pair{own[0], own[1]};
      if constexpr (adds) pair = {place->x + pair.x, place->y + pair.y};
      *place = pair;
    }
  }
}

/// Adds the summed rows of the crowded buckets that own row `own` meets to eight columns of its sum.
__device__ __forceinline__ void add_crowded(const CountArguments& p, const AttentionPlace& at, int own,
                                            int column, const std::uint32_t* marks, float (&sum)[8]) {
  const std::int64_t tokens = p.source.tokens;
  const std::uint32_t* words =
      p.source.words + std::int64_t{at.head} * p.source.hashes * tokens + at.begin + own;
  const bfloat16* summed = p.work.summed + at.head * p.work.summed_rows * p.work.out.width + column;
#pragma unroll 1
  for (int w = 0; w < Tile::mark_words; ++w) {
#pragma unroll 1
    for (std::uint32_t left = marks[w]; left != 0;) {
      bool is_met[crowded_together];
      int hash[crowded_together];
      std::uint32_t first[crowded_together];
      Pack<bfloat16, 8> pack[crowded_together] = {};
#pragma unroll
      for (int i = 0; i < crowded_together; ++i) {
        is_met[i] = left != 0;
        hash[i] = 32 * w + __ffs(static_cast<int>(left)) - 1;
        left &= left - 1;
        first[i] = is_met[i] ? words[hash[i] * tokens] & CountWord::first_bits : 0;
      }
#pragma unroll
      for (int i = 0; i < crowded_together; ++i) {
        const std::int64_t row = summed_row(tokens, hash[i], at.begin + std::int64_t{first[i]});
        if (is_met[i]) pack[i] = load_pack<8>(summed + row * p.work.out.width);
      }
#pragma unroll
      for (int i = 0; i < crowded_together; ++i) {
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[c] += to_accumulate(pack[i].item[c]);
      }
    }
  }
}

/// Scales the sums in shared memory, and with data in `norm` to length one, and writes them.
template <int width>
__device__ __forceinline__ void write_rows(const CountArguments& p, const AttentionPlace& at, const Tile& tile,
                                           const float* sums) {
  constexpr int lanes = width / 8, together = threads / lanes;  // rows
  const int column = static_cast<int>(threadIdx.x) % lanes * 8;
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x) / lanes; row < rows; row += together) {
    const int own = at.first + row;
    const bool is_row = own < at.length;
    float sum[8], square = 0;
    const float* from = sums + row * CountMemory<width>::sum_stride + column;
#pragma unroll
    for (int c = 0; c < 8; ++c) sum[c] = from[c];
    if (is_row) add_crowded(p, at, own, column, tile.marks(row), sum);
#pragma unroll
    for (int c = 0; c < 8; ++c) square += sum[c] * sum[c];
    float scale = p.work.scale;
    const float length = scale * sqrtf(warp_sum(square, lanes));
    if (!is_row) continue;
    if (p.work.norm.data != nullptr) {
      scale /= fmaxf(length, static_cast<float>(smallest_norm));
      if (column == 0) *row_of(p.work.norm, at.begin + own, at.head) = length;
    }
    Pack<bfloat16, 8> pack;
#pragma unroll
    for (int c = 0; c < 8; ++c) pack.item[c] = from_accumulate<bfloat16>(scale * sum[c]);
    bfloat16* to = row_of(p.work.out, at.begin + own, at.head) + column;
    if (p.out_by_packs) {
      store_pack(to, pack);
      continue;
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) to[c] = pack.item[c];
  }
}

template <int width>
__global__ void __launch_bounds__(threads, blocks) sum_counted(CountArguments p) {
  using Memory = CountMemory<width>;
  extern __shared__ __align__(1024) std::byte shared[];
  __shared__ PlaceScratch place_scratch;
  const AttentionPlace at =
      find_place<rows, threads>(p.work.sequences, p.work.out.heads, 1, p.slots, place_scratch);
  if (at.sequence < 0) {
    clear_rows<rows, threads>(at, p.work.out);
    if (p.work.norm.data != nullptr)
      for (int begin = at.begin; begin < at.length; begin += at.first)
        if (const int row = begin + static_cast<int>(threadIdx.x); threadIdx.x < rows && row < at.length)
          *row_of(p.work.norm, row, at.head) = 0;
    return;
  }
  const RowSource source{row_of(p.work.value, at.begin, at.head), p.work.value.token_stride, at.length, width,
                         p.values_by_packs};
  auto* const memory = reinterpret_cast<unsigned char*>(shared) + 2 * Memory::stage_bytes;
  const Tile tile{memory, memory + Tile::counts_bytes};
  const std::uint32_t stages = shared_address_of(shared);
  const int half = static_cast<int>(threadIdx.x) / (threads / 2);
  const std::uint32_t lane_values = stages + half * (Memory::stage_bytes / 2) + TileLayout<width>::row_lane();
  RowSums<width> sums = {};
  copy_tile<width, stage_rows, threads>(stages, source, 0);
#pragma unroll 1
  for (int first = 0; first < at.length; first += stage_rows) {
    if (first % columns == 0) {
      __syncthreads();  // the product of the run before is done
      tile.build(p.source, at, static_cast<std::uint32_t>(first));
    }
    wait_copies();
    __syncthreads();
    const int stage = first / stage_rows % 2;
    if (first + stage_rows < at.length)
      copy_tile<width, stage_rows, threads>(stages + (stage ^ 1) * Memory::stage_bytes, source,
                                            first + stage_rows);
    if (first + half * half_rows < at.length)
      add_half<width>(sums, tile, first % columns / half_rows + half,
                      lane_values + stage * Memory::stage_bytes);
  }
  auto* joined = reinterpret_cast<float*>(tile.memory);
  __syncthreads();
  if (half == 0) put_sums<width, false>(sums, joined);
  __syncthreads();
  if (half == 1) put_sums<width, true>(sums, joined);
  __syncthreads();
  write_rows<width>(p, at, tile, joined);
}

template <int width>
void launch(Cuda& cuda, const CountArguments& arguments) {
  constexpr int bytes = CountMemory<width>::bytes;
  check_cuda(cudaFuncSetAttribute(sum_counted<width>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "bucket_sum: shared memory");
  const auto count = static_cast<unsigned>(arguments.slots * arguments.work.out.heads);
  sum_counted<width><<<count, threads, bytes, cuda.stream>>>(arguments);
  check_launch("bucket_sum: sum_counted");
}

}  // namespace

bool counts_fit(const Cuda& cuda, const Sequences& sequences, int hashes, int bits, int width) {
  constexpr int spare_bytes = 1024;  // of variables that are not in the block's memory
  return (width == 32 || width == 64) && sequences.longest <= longest_counted &&
         CountMemory<64>::bytes + spare_bytes <= cuda.shared_memory &&
         words_fit(cuda, sequences, hashes, bits, false);
}

void sum_by_counts(Cuda& cuda, const BucketCounts& work) {
  const Collisions<std::uint16_t>& collisions = work.collisions;
  const CountArguments arguments{work,
                                 {collisions.words, collisions.partner_order, work.out.tokens,
                                  collisions.hashes, CountWord::place_bits(work.sequences.longest)},
                                 tile_slots(work.sequences, rows),
                                 has_packs(work.value),
                                 has_packs(work.out)};
  if (work.out.width == 64)
    launch<64>(cuda, arguments);
  else
    launch<32>(cuda, arguments);
}

}  // namespace tern::kernels
