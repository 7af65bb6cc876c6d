// Hash codes of bfloat16 rows of at most 64 columns on tensor cores. Each warp keeps the directions of four
// hashes in registers; all warps of a block read the same rows from shared memory, where they arrive while
// others are multiplied. Products and sums are those of hash_codes_products.cu, in the same order.
// Deterministic. Cost as in hash_codes.cu.
#include "kernels/cuda/hash_fragments.cuh"
#include "kernels/cuda/hash_runs.cuh"

namespace tern::kernels {
namespace {

constexpr int most_warps = 8;
constexpr int tiles = unit_rows / 16;  // products whose codes leave as one access

/// Rows on their way to registers, unit by unit. Item 32 (m steps / 2 + h) + lane of a unit is what lane 4 g +
/// t of product m holds of columns 32 h .. 32 h + 31: 16 bytes from 8 t on of rows 8 g + 2 m and the next, rows
/// g and g + 8 of the product. The thread that copies an item orders its words as operands of two steps.
template <int steps>
struct RowPipe {
  static constexpr int stages = 3;
  static constexpr unsigned items = tiles * steps / 2 * warp_lanes;
  using Words = Pack<std::uint32_t, 4>;
  Words copied[stages][2][items];
  Words operand[2][tiles][steps][warp_lanes];

  static __device__ __forceinline__ int row(unsigned item) {
    return static_cast<int>(item % warp_lanes / 4 * 8 + item / (warp_lanes * steps / 2) * 2);
  }
  static __device__ __forceinline__ int column(unsigned item) {
    return static_cast<int>(item / warp_lanes % (steps / 2) * 32 + item % 4 * 8);
  }
  /// After the thread's own copies of `unit` have arrived.
  __device__ __forceinline__ void order(int unit) {
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < items; i += blockDim.x) {
      const Words first = copied[unit % stages][0][i], second = copied[unit % stages][1][i];
      Words* to = &operand[unit % 2][0][0][0] + i / warp_lanes * 2 * warp_lanes + i % warp_lanes;
      to[0] = {{first.item[0], second.item[0], first.item[1], second.item[1]}};
      to[warp_lanes] = {{first.item[2], second.item[2], first.item[3], second.item[3]}};
    }
  }
};

/// Both rows' codes of four hashes from one product's rows.
template <int steps, int products>
__device__ __forceinline__ void project(const Pack<std::uint32_t, 4> (&a)[steps],
                                        const Fragment (&b)[products][steps], std::uint32_t& first,
                                        std::uint32_t& second) {
  constexpr int together = products <= 6 ? products : (products + 1) / 2;  // what registers hold
#pragma unroll
  for (int end = products; end > 0; end -= together) {
    float sum[together][4];
#pragma unroll
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int i = 0; i < together; ++i) {
        if (end - 1 - i < 0) continue;
        if (step == 0)
          set_product(sum[i], a[0].item, b[end - 1 - i][0]);
        else
          add_product(sum[i], a[step].item, b[end - 1 - i][step].low, b[end - 1 - i][step].high);
      }
    }
#pragma unroll
    for (int i = 0; i < together; ++i)
      if (end - 1 - i >= 0) shift_in_signs(sum[i], first, second);
  }
}

/// One warp for each group of hashes; the grid's z counts sets of as many groups as a block has warps.
template <int steps, int products, class Code>
__global__ void __launch_bounds__(most_warps* warp_lanes, 2)
    project_resident(Projection<bfloat16, Code> p, FragmentPlan<steps, 1> plan, const Fragment* fragments,
                     int runs, bool is_aligned) {
  using Pipe = RowPipe<steps>;
  __shared__ Pipe pipe;
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x),
            lane = thread % warp_lanes;
  const Run run(p.sequences, p.directions.heads, runs);
  if (run.range.index == p.sequences.count) {
    const Tile tile{run.range, run.head, static_cast<int>(blockIdx.x) % runs * threads};
    if (blockIdx.z == 0) clear_codes(p, tile, runs * threads);
    return;
  }
  if (run.count <= 0) return;
  const Heads<const bfloat16> x = p.rows();
  const bfloat16* from = row_of(x, run.range.begin + run.first_row, run.head);
  const auto fetch = [&](int unit) {
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < Pipe::items && unit < run.count; i += blockDim.x) {
      const int row = unit * unit_rows + Pipe::row(i), column = Pipe::column(i);
      const bfloat16* at = from + row * x.token_stride + column;
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        const int place = run.first_row + row + u;
        const bool is_inside = place >= 0 && place < run.range.length && column < x.width;
        copy_ahead<16>(shared_address(&pipe.copied[unit % Pipe::stages][u][i]),
                       is_inside ? at + u * x.token_stride : x.data, is_inside);
      }
    }
    commit_copies();
  };
  const auto prepare = [&](int unit) {
    wait_copies<Pipe::stages - 1>();
    pipe.order(unit);
    fetch(unit + Pipe::stages);
  };
#pragma unroll
  for (int unit = 0; unit < Pipe::stages; ++unit) fetch(unit);
  const int group = static_cast<int>(blockIdx.z) * (threads / warp_lanes) + thread / warp_lanes;
  Fragment b[products][steps] = {};
  if (group < plan.groups) {
    fragments += (static_cast<std::int64_t>(run.range.index) * p.directions.heads + run.head) * plan.of_pair() +
                 group * plan.of_group() + lane;
#pragma unroll
    for (int i = 0; i < products * steps; ++i) b[i / steps][i % steps] = fragments[i * warp_lanes];
  }
  const int hash = group * hashes_together + lane % 4;
  Code* to = p.place(run.head, min(hash, p.shape.hashes - 1)) + run.range.begin;
  prepare(0);
  __syncthreads();
  for (int unit = 0; unit < run.count; ++unit) {
    if (unit + 1 < run.count) prepare(unit + 1);
    if (group < plan.groups) {
      std::uint32_t code[2 * tiles] = {};
#pragma unroll
      for (int m = 0; m < tiles; ++m) {
        typename Pipe::Words a[steps];
#pragma unroll
        for (int step = 0; step < steps; ++step) a[step] = pipe.operand[unit % 2][m][step][lane];
        project<steps, products>(a, b, code[2 * m], code[2 * m + 1]);
      }
      if (hash < p.shape.hashes)
        store_codes(code, run.first_row + unit * unit_rows + lane / 4 * 2 * tiles, run.range.length, is_aligned,
                    to);
    }
    __syncthreads();
  }
}

template <int steps, int products>
void launch(Cuda& cuda, const Projection<bfloat16, std::uint16_t>& p, const FragmentPlan<steps, 1>& plan,
            const Fragment* fragments, bool is_aligned) {
  if (products < plan.products) {
    if constexpr (products < 8) launch<steps, products + 1>(cuda, p, plan, fragments, is_aligned);
    return;
  }
  const int sets = (plan.groups + most_warps - 1) / most_warps, warps = (plan.groups + sets - 1) / sets;
  const int together = std::min(
      2 * most_warps / warps, (cuda.shared_memory + 1024) / (static_cast<int>(sizeof(RowPipe<steps>)) + 1024));
  const int runs = runs_of(cuda, p.sequences, together, p.directions.heads * p.sides * sets);
  const auto blocks = static_cast<unsigned>(runs * (p.sequences.count + 1) * p.directions.heads);
  project_resident<steps, products, std::uint16_t>
      <<<dim3(blocks, static_cast<unsigned>(p.sides), static_cast<unsigned>(sets)), warps * warp_lanes, 0,
         cuda.stream>>>(p, plan, fragments, runs, is_aligned);
  check_launch("hash_codes: project_resident");
}

}  // namespace

template <int steps>
void project_packed(Cuda& cuda, const Projection<bfloat16, std::uint16_t>& projection,
                    const FragmentPlan<steps, 1>& plan, const Fragment* fragments, bool is_aligned) {
  launch<steps, 1>(cuda, projection, plan, fragments, is_aligned);
}

template void project_packed<2>(Cuda&, const Projection<bfloat16, std::uint16_t>&, const FragmentPlan<2, 1>&,
                                const Fragment*, bool);
template void project_packed<4>(Cuda&, const Projection<bfloat16, std::uint16_t>&, const FragmentPlan<4, 1>&,
                                const Fragment*, bool);

}  // namespace tern::kernels
