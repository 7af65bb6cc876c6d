// Hash codes of bfloat16 rows on tensor cores, with columns ordered as in hash_fragments.cuh. Directions of
// Hadamard rotations of width w are even integers of at most w^1.5, which bfloat16 holds up to w = 64; wider
// ones go in two parts. Products are exact, sums are float32 in a fixed order: deterministic. Packed rows of at
// most 64 columns and more than 8 hashes take the kernels of hash_codes_hopper.cu or _resident.cu. Cost as in
// hash_codes.cu.
#include "base/normal.h"
#include "kernels/cuda/hash_fragments.cuh"

namespace tern::kernels {
namespace {

constexpr int most_threads = 256;
constexpr int chunk_bytes = 12 * 1024;

/// The row of fragments of a (sequence, head) that a warp fills, and the direction of one of its columns.
template <int steps, int parts>
struct FragmentRow {
  int step, part, hash, bit;

  __device__ FragmentRow(const FragmentPlan<steps, parts>& plan, int row, int column) {
    part = row % parts;
    step = row / parts % steps;
    const int product = row / (steps * parts);
    bit = 2 * (product % plan.products) + column % 2;
    hash = hashes_together * (product / plan.products) + column / 2;
  }
};

/// Calls body(pair, row) for all pairs and the rows of each, for one row in a warp: the grid's y counts pairs.
template <int steps, int parts, class Body>
__device__ __forceinline__ void for_each_row(const FragmentPlan<steps, parts>& plan, int pairs,
                                             const Body& body) {
  const int row = static_cast<int>(thread_index()) / warp_lanes;
  if (row >= plan.of_pair() / warp_lanes) return;
  for (int pair = static_cast<int>(blockIdx.y); pair < pairs; pair += static_cast<int>(gridDim.y))
    body(pair, row);
}

/// One of a row of fragments that begins at `to`.
template <int steps, int parts>
__device__ __forceinline__ void store_fragment(const FragmentPlan<steps, parts>& plan, Fragment* to, int lane,
                                               Fragment fragment) {
  if (plan.is_for_warpgroups) {
    std::uint32_t* const words = reinterpret_cast<std::uint32_t*>(to);
    words[lane] = fragment.low;
    words[warp_lanes + lane] = fragment.high;
  } else {
    to[lane] = fragment;
  }
}

/// Gaussian directions of a width that is a multiple of 4: a lane draws four neighbours at once.
template <int steps>
__global__ void draw_fragments(Directions directions, HashShape shape, FragmentPlan<steps, 1> plan,
                               RandomStream stream, const std::int64_t* sample, int pairs,
                               Fragment* fragments) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  for_each_row(plan, pairs, [&](int pair, int i) {
    const FragmentRow row(plan, i, lane / 4);
    const int depth = fragment_depth(row.step, lane % 4);
    Fragment fragment{0, 0};
    if (row.hash < shape.hashes && row.bit < shape.bits && depth < directions.width) {
      const auto element =
          static_cast<std::uint64_t>((row.hash * shape.bits + row.bit) * directions.width + depth);
      const int head = directions.first_head + pair % directions.heads;
      float drawn[4];
      normals_of(
          stream.words(sample[pair / directions.heads], HashDraw::block(HashDraw::directions, head, element)),
          drawn);
      fragment = {pack_pair(-drawn[0], -drawn[1]), pack_pair(-drawn[2], -drawn[3])};
    }
    store_fragment(plan, fragments + static_cast<std::int64_t>(pair) * plan.of_pair() + i * warp_lanes, lane,
                   fragment);
  });
}

/// The part `part` of two neighbours of a negated direction: the value rounded to bfloat16, then the rest.
__device__ std::uint32_t part_of(float first, float second, int part) {
  const std::uint32_t rounded = pack_pair(-first, -second);
  return part == 0 ? rounded : pack_pair(-first - first_of(rounded), -second - second_of(rounded));
}

/// The same from directions that have been drawn.
template <int steps, int parts>
__global__ void order_fragments(Directions directions, HashShape shape, FragmentPlan<steps, parts> plan,
                                int pairs, Fragment* fragments) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes, width = directions.width;
  for_each_row(plan, pairs, [&](int pair, int i) {
    const FragmentRow row(plan, i, lane / 4);
    const int depth = fragment_depth(row.step, lane % 4);
    Fragment fragment{0, 0};
    if (row.hash < shape.hashes && row.bit < shape.bits) {
      const float* direction =
          directions.data +
          (static_cast<std::int64_t>(pair) * directions.columns + row.hash * shape.bits + row.bit) * width;
      if (depth < width) fragment.low = part_of(direction[depth], direction[depth + 1], row.part);
      if (depth + 2 < width) fragment.high = part_of(direction[depth + 2], direction[depth + 3], row.part);
    }
    store_fragment(plan, fragments + static_cast<std::int64_t>(pair) * plan.of_pair() + i * warp_lanes, lane,
                   fragment);
  });
}

/// A warp's rows. Lane 4 g + t holds rows 2 (tiles g + m) and the next as rows g and g + 8 of product m.
template <int steps, int tiles>
struct RowFragments {
  static constexpr int words = 4;  // of a lane in two steps
  std::uint32_t a[tiles][steps][4];

  __device__ __forceinline__ void load(const Heads<const bfloat16>& x, bool packed, const Tile& tile,
                                       int first_row, int lane) {
    first_row += lane / 4 * 2 * tiles;
    const bfloat16* from = row_of(x, tile.range.begin + first_row, tile.head) + lane % 4 * 2 * words;
    const int first = -first_row, last = tile.range.length - first_row;  // rows that exist
    if (packed)
      load_rows<words>(from, x.token_stride, x.width - lane % 4 * 2 * words, first, last);
    else
      load_rows<1>(from, x.token_stride, x.width - lane % 4 * 2 * words, first, last);
  }

 private:
  /// `moved` words at a time; `left` columns from `from` on exist.
  template <int moved>
  __device__ __forceinline__ void load_rows(const bfloat16* from, std::int64_t stride, int left, int first,
                                            int last) {
#pragma unroll
    for (int i = 0; i < 2 * tiles; ++i) {
#pragma unroll
      for (int step = 0; step < steps; step += 2) {
        Pack<std::uint32_t, words> pack{};
#pragma unroll
        for (int v = 0; v < words; v += moved) {
          if (i < first || i >= last || 16 * step + 2 * v >= left) continue;
          const auto part =
              load_pack<moved>(reinterpret_cast<const std::uint32_t*>(from + i * stride + 16 * step) + v);
#pragma unroll
          for (int w = 0; w < moved; ++w) pack.item[v + w] = part.item[w];
        }
        a[i / 2][step][i % 2] = pack.item[0];
        a[i / 2][step][2 + i % 2] = pack.item[1];
        a[i / 2][step + 1][i % 2] = pack.item[2];
        a[i / 2][step + 1][2 + i % 2] = pack.item[3];
      }
    }
  }
};

/// The codes of a warp's rows for four hashes, from all their bits' fragments.
template <int steps, int tiles, int parts>
__device__ __forceinline__ void project(const RowFragments<steps, tiles>& rows, const Fragment* fragments,
                                        int products, std::uint32_t (&code)[2 * tiles]) {
  for (int product = products - 1; product >= 0; --product) {
    const Fragment* from = fragments + product * FragmentPlan<steps, parts>::of_product;
    float sum[tiles][4];
#pragma unroll
    for (int i = 0; i < steps * parts; ++i) {
      const Fragment b = from[i * warp_lanes];
#pragma unroll
      for (int m = 0; m < tiles; ++m) {
        if (i == 0)
          set_product(sum[m], rows.a[m][0], b);
        else
          add_product(sum[m], rows.a[m][i / parts], b.low, b.high);
      }
    }
#pragma unroll
    for (int m = 0; m < tiles; ++m) shift_in_signs(sum[m], code[2 * m], code[2 * m + 1]);
  }
}

/// A block's rows start at a multiple of 8 tokens of the batch, at or before the sequence's first.
template <int steps, int tiles, int parts, class Code>
__global__ void __launch_bounds__(most_threads, 2)
    project_products(Projection<bfloat16, Code> p, FragmentPlan<steps, parts> plan, const Fragment* fragments,
                     int blocks_of_head, int chunk, bool is_aligned) {
  extern __shared__ __align__(16) unsigned char shared[];
  constexpr int warp_rows = 16 * tiles;
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x),
            lane = thread % warp_lanes, size = threads / warp_lanes * warp_rows;
  const Tile tile = tile_of_block(p, blocks_of_head, size);
  if (tile.range.index == p.sequences.count) return clear_codes(p, tile, blocks_of_head * size);
  const int first_row = tile.first - tile.range.begin % 8 + thread / warp_lanes * warp_rows;
  if (tile.first - tile.range.begin % 8 >= tile.range.length) return;
  const int group_size = plan.of_group(), chunk_size = chunk * group_size;
  fragments += (static_cast<std::int64_t>(tile.range.index) * p.directions.heads + tile.head) * plan.of_pair();
  Fragment* buffers = reinterpret_cast<Fragment*>(shared);
  const auto fetch = [&](int first) {
    const int count = min(chunk, plan.groups - first) * group_size;
    const std::uint32_t to = shared_address(buffers + first / chunk % 2 * chunk_size);
    for (int i = 2 * thread; i < count; i += 2 * threads)
      copy_ahead<16>(to + i * static_cast<int>(sizeof(Fragment)), fragments + first * group_size + i, true);
    commit_copies();
  };
  fetch(0);
  RowFragments<steps, tiles> rows;
  rows.load(p.rows(), p.packed, tile, first_row, lane);
  for (int first = 0; first < plan.groups; first += chunk) {
    if (first + chunk < plan.groups) {
      fetch(first + chunk);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    const Fragment* from = buffers + first / chunk % 2 * chunk_size + lane;
    for (int group = first; group < min(first + chunk, plan.groups); ++group, from += group_size) {
      std::uint32_t code[2 * tiles] = {};
      project<steps, tiles, parts>(rows, from, plan.products, code);
      const int hash = group * hashes_together + lane % 4;
      if (hash < p.shape.hashes)
        store_codes(code, first_row + lane / 4 * 2 * tiles, tile.range.length, is_aligned,
                    p.place(tile.head, hash) + tile.range.begin);
    }
    __syncthreads();
  }
}

template <int steps, int parts, class Code>
void fill_fragments(Cuda& cuda, const Projection<bfloat16, Code>& p, const FragmentPlan<steps, parts>& plan,
                    const RandomStream& stream, Fragment* fragments) {
  const int pairs = static_cast<int>(p.sequences.count) * p.directions.heads;
  if (pairs == 0) return;
  constexpr int block = 256, most_in_y = 65535;
  const dim3 blocks(static_cast<unsigned>((plan.of_pair() + block - 1) / block),
                    static_cast<unsigned>(std::min(pairs, most_in_y)));
  if (p.directions.data != nullptr)
    order_fragments<<<blocks, block, 0, cuda.stream>>>(p.directions, p.shape, plan, pairs, fragments);
  else if constexpr (parts == 1)
    draw_fragments<<<blocks, block, 0, cuda.stream>>>(p.directions, p.shape, plan, stream, p.sequences.sample,
                                                      pairs, fragments);
  check_launch("hash_codes: fragments");
}

template <int steps, int parts, class Code>
void launch(Cuda& cuda, const Projection<bfloat16, Code>& p, const RandomStream& stream) {
  constexpr int tiles = steps <= 4 ? 4 : 2;
  constexpr bool may_be_packed = steps <= 4 && parts == 1 && std::is_same_v<Code, std::uint16_t>;
  FragmentPlan<steps, parts> plan{(p.shape.hashes + hashes_together - 1) / hashes_together,
                                  (p.shape.bits + 1) / 2};
  if constexpr (may_be_packed)
    if (p.packed) plan = warpgroup_plan(cuda, p, plan);
  const Scratch<Fragment> fragments(cuda, p.sequences.count * p.directions.heads * plan.of_pair());
  fill_fragments(cuda, p, plan, stream, fragments.data());
  const bool is_aligned = kernels::is_aligned(16, p.codes[0], p.codes[1]) && p.sequences.tokens % 8 == 0;
  if constexpr (may_be_packed) {
    if (plan.is_for_warpgroups) return project_by_warpgroups(cuda, p, plan, fragments.data(), is_aligned);
    if (p.packed && plan.groups > 2) return project_packed(cuda, p, plan, fragments.data(), is_aligned);
  }
  const int threads = p.sequences.longest >= 1024 ? most_threads : most_threads / 2;
  const int size = threads / warp_lanes * 16 * tiles;
  const int blocks_of_head = static_cast<int>((p.sequences.longest + 7 + size - 1) / size);
  const int group_bytes = plan.of_group() * static_cast<int>(sizeof(Fragment));
  const int chunk = std::clamp(chunk_bytes / group_bytes, 1, plan.groups);
  check_cuda(cudaFuncSetAttribute(project_products<steps, tiles, parts, Code>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, 96 * 1024),
             "hash_codes: shared memory");
  const auto blocks = static_cast<unsigned>(blocks_of_head * (p.sequences.count + 1) * p.directions.heads);
  project_products<steps, tiles, parts, Code>
      <<<dim3(blocks, static_cast<unsigned>(p.sides)), threads,
         static_cast<std::size_t>(2 * chunk * group_bytes), cuda.stream>>>(p, plan, fragments.data(),
                                                                           blocks_of_head, chunk, is_aligned);
  check_launch("hash_codes: project_products");
}

}  // namespace

template <class Code>
void project_by_products(Cuda& cuda, const Projection<bfloat16, Code>& p, const RandomStream& stream) {
  if (p.directions.width <= 32)
    launch<2, 1>(cuda, p, stream);
  else if (p.directions.width <= 64)
    launch<4, 1>(cuda, p, stream);
  else if (p.shape.family == HashFamily::gaussian)
    launch<8, 1>(cuda, p, stream);
  else
    launch<8, 2>(cuda, p, stream);
}

template void project_by_products<std::uint16_t>(Cuda&, const Projection<bfloat16, std::uint16_t>&,
                                                 const RandomStream&);
template void project_by_products<std::uint32_t>(Cuda&, const Projection<bfloat16, std::uint32_t>&,
                                                 const RandomStream&);

}  // namespace tern::kernels
