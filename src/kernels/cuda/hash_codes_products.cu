// Hash codes of bfloat16 rows on tensor cores. The columns of the product are ordered so that each thread's
// sums are the bits of whole codes: of every 8 columns lane t of four owns 2 t and 2 t + 1, which are bits 2 k
// and 2 k + 1 of hash t of four. Directions of Hadamard rotations, integers below 2^16, go in two bfloat16
// parts. Products are exact, sums are float32 in a fixed order: deterministic. Cost as in hash_codes.cu.
#include "kernels/cuda/hash_codes.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 128, warps = threads / warp_lanes;
constexpr int together = 4;  // hashes whose bits lie in one product
constexpr int shared_bytes = 40 * 1024;

/// Both columns of a lane: rows 2 t, 2 t + 1 and 2 t + 8, 2 t + 9 of the depth, for one part of the directions.
struct Fragment {
  std::uint32_t low, high;
};

/// The part `part` of two neighbours of a direction: the value rounded to bfloat16, then the rest.
__device__ std::uint32_t part_of(float first, float second, int part) {
  const std::uint32_t rounded = pack_pair(first, second);
  return part == 0 ? rounded : pack_pair(first - first_of(rounded), second - second_of(rounded));
}

/// fragments[((group * products + k) * steps + step) * parts + part][lane]
template <int steps, int parts, class Code>
__device__ void load_directions(const Projection<bfloat16, Code>& p, const float* directions, int first_hash,
                                int groups, int products, Fragment* fragments) {
  const int width = p.x.width;
  const auto pair_at = [&](const float* direction, int c, int part) -> std::uint32_t {
    return c < width ? part_of(direction[c], direction[c + 1], part) : 0;
  };
  for (int i = static_cast<int>(threadIdx.x); i < groups * products * steps * parts * warp_lanes;
       i += threads) {
    const int lane = i % warp_lanes, part = i / warp_lanes % parts, step = i / (warp_lanes * parts) % steps;
    const int product = i / (warp_lanes * parts * steps) % products;
    const int group = i / (warp_lanes * parts * steps * products);
    const int column = lane / 4, depth = 16 * step + lane % 4 * 2;
    const int hash = first_hash + group * together + column / 2, bit = 2 * product + column % 2;
    fragments[i] = {0, 0};
    if (hash < p.hashes && bit < p.bits) {
      const float* direction = directions + (hash * p.bits + bit) * width;
      fragments[i] = {pair_at(direction, depth, part), pair_at(direction, depth + 8, part)};
    }
  }
}

/// A warp's rows: `tiles` times 16. Lane 4 g + t holds rows g and g + 8 of each.
template <int steps, int tiles>
struct RowFragments {
  std::uint32_t a[tiles][steps][4];

  __device__ void load(const Heads<const bfloat16>& x, const Tile& tile, int first_row, int lane) {
    const auto pair_at = [&](int row, int c) -> std::uint32_t {
      if (row >= tile.range.length || c >= x.width) return 0;
      return *reinterpret_cast<const std::uint32_t*>(row_of(x, tile.range.begin + row, tile.head) + c);
    };
#pragma unroll
    for (int m = 0; m < tiles; ++m) {
      const int row = first_row + 16 * m + lane / 4;
#pragma unroll
      for (int step = 0; step < steps; ++step) {
        const int c = 16 * step + lane % 4 * 2;
        a[m][step][0] = pair_at(row, c);
        a[m][step][1] = pair_at(row + 8, c);
        a[m][step][2] = pair_at(row, c + 8);
        a[m][step][3] = pair_at(row + 8, c + 8);
      }
    }
  }
};

template <int steps, int tiles, int parts, class Code>
__global__ void __launch_bounds__(threads)
    project_products(Projection<bfloat16, Code> p, int blocks_of_head, int shared_groups) {
  extern __shared__ __align__(16) unsigned char shared[];
  Fragment* fragments = reinterpret_cast<Fragment*>(shared);
  constexpr int warp_rows = 16 * tiles, size = warps * warp_rows;
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const Tile tile = tile_of_block(p, blocks_of_head, size);
  if (tile.range.index == p.sequences.count) return clear_codes(p, tile, blocks_of_head * size);
  if (tile.first >= tile.range.length) return;
  const float* directions =
      p.directions.data + (static_cast<std::int64_t>(tile.range.index) * p.directions.heads + tile.head) *
                              p.directions.columns * p.directions.width;
  const int products = (p.bits + 1) / 2, first_row = tile.first + warp * warp_rows;
  RowFragments<steps, tiles> rows;
  rows.load(p.x, tile, first_row, lane);
  for (int first = 0; first < p.hashes; first += shared_groups * together) {
    const int groups = min(shared_groups, (p.hashes - first + together - 1) / together);
    __syncthreads();
    load_directions<steps, parts>(p, directions, first, groups, products, fragments);
    __syncthreads();
    for (int group = 0; group < groups; ++group) {
      std::uint32_t code[tiles][2] = {};
      for (int product = 0; product < products; ++product) {
        float sum[tiles][4] = {};
        const Fragment* from = fragments + (group * products + product) * steps * parts * warp_lanes + lane;
#pragma unroll
        for (int i = 0; i < steps * parts; ++i) {
          const Fragment b = from[i * warp_lanes];
#pragma unroll
          for (int m = 0; m < tiles; ++m) add_product(sum[m], rows.a[m][i / parts], b.low, b.high);
        }
#pragma unroll
        for (int m = 0; m < tiles; ++m) {
#pragma unroll
          for (int u = 0; u < 2; ++u) {
            const std::uint32_t bits = (sum[m][2 * u] > 0 ? 1u : 0u) | (sum[m][2 * u + 1] > 0 ? 2u : 0u);
            code[m][u] |= bits << (2 * product);
          }
        }
      }
      const int hash = first + group * together + lane % 4;
      if (hash >= p.hashes) continue;
      Code* to = p.place(tile.head, hash) + tile.range.begin;
#pragma unroll
      for (int m = 0; m < tiles; ++m) {
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          const int row = first_row + 16 * m + 8 * u + lane / 4;
          if (row < tile.range.length) to[row] = static_cast<Code>(code[m][u]);
        }
      }
    }
  }
}

template <int steps, int parts, class Code>
void launch(Cuda& cuda, const Projection<bfloat16, Code>& p) {
  constexpr int tiles = steps <= 4 ? 4 : 2, size = warps * 16 * tiles;
  const int blocks_of_head = static_cast<int>((p.sequences.longest + size - 1) / size);
  const int group_bytes = (p.bits + 1) / 2 * steps * parts * warp_lanes * static_cast<int>(sizeof(Fragment));
  const int groups = std::clamp(shared_bytes / group_bytes, 1, (p.hashes + together - 1) / together);
  const auto blocks = static_cast<unsigned>(blocks_of_head * (p.sequences.count + 1) * p.x.heads);
  project_products<steps, tiles, parts, Code>
      <<<blocks, threads, static_cast<std::size_t>(groups * group_bytes), cuda.stream>>>(p, blocks_of_head,
                                                                                         groups);
  check_launch("hash_codes: project_products");
}

template <int steps, class Code>
void launch_parts(Cuda& cuda, const Projection<bfloat16, Code>& p) {
  if (p.is_gaussian)
    launch<steps, 1>(cuda, p);
  else
    launch<steps, 2>(cuda, p);
}

}  // namespace

template <class Code>
void project_by_products(Cuda& cuda, const Projection<bfloat16, Code>& p) {
  if (p.x.width <= 32)
    launch_parts<2>(cuda, p);
  else if (p.x.width <= 64)
    launch_parts<4>(cuda, p);
  else
    launch_parts<8>(cuda, p);
}

template void project_by_products<std::uint16_t>(Cuda&, const Projection<bfloat16, std::uint16_t>&);
template void project_by_products<std::uint32_t>(Cuda&, const Projection<bfloat16, std::uint32_t>&);

}  // namespace tern::kernels
