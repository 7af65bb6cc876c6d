// Hash codes of bfloat16 rows of 32 or 64 columns on sm_90a. A warpgroup holds 64 rows in registers, and the
// next ones on their way, and multiplies them by the directions of eight hashes at a time, which all lie in
// shared memory. Products and order of the sums are those of hash_codes_products.cu. Deterministic. Cost as in
// hash_codes.cu.
#include "kernels/cuda/attention_hopper_tiles.h"
#include "kernels/cuda/hash_fragments.cuh"
#include "kernels/cuda/hash_runs.cuh"
#include "kernels/cuda/hopper_row_products.cuh"

namespace tern::kernels {
namespace {

constexpr int warpgroups = 2;  // of a block
constexpr int groups_together = 2;
constexpr int most_shared_bytes = 104 * 1024;  // two blocks share a multiprocessor

/// What a lane holds of the rows 2 g and 2 g + 1 of its warp's 16, as rows g and g + 8 of a product.
template <int steps>
struct LaneRows {
  Pack<std::uint32_t, 4> part[2][steps / 2];

  __device__ __forceinline__ void load(const bfloat16* from, std::int64_t stride, int place, int length) {
#pragma unroll
    for (int u = 0; u < 2; ++u) {
#pragma unroll
      for (int half = 0; half < steps / 2; ++half) {
        part[u][half] = {};
        if (place + u >= 0 && place + u < length)
          part[u][half] = load_pack<4>(reinterpret_cast<const std::uint32_t*>(from + u * stride + 32 * half));
      }
    }
  }
  __device__ __forceinline__ void order(std::uint32_t (&a)[steps][4]) const {
#pragma unroll
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[step][i] = part[i % 2][step / 2].item[step % 2 * 2 + i / 2];
    }
  }
};

/// Codes of a lane's two rows for the hash of `group` of those together.
template <int products>
__device__ __forceinline__ void take_signs(const float (&sum)[8 * products], int group,
                                           std::uint32_t (&code)[2]) {
#pragma unroll
  for (int i = 4 * products * (group + 1) - 4; i >= 4 * products * group; i -= 4) {
    const float bits[4] = {sum[i], sum[i + 1], sum[i + 2], sum[i + 3]};
    shift_in_signs(bits, code[0], code[1]);
  }
}

template <int steps, int products>
__global__ void __launch_bounds__(warpgroups* hopper::warpgroup_threads, 2)
    project_warpgroups(Projection<bfloat16, std::uint16_t> p, FragmentPlan<steps, 1> plan,
                       const Fragment* fragments, int runs, bool is_aligned) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int threads = warpgroups * hopper::warpgroup_threads, columns = 8 * products * groups_together,
                step_bytes = warp_lanes * static_cast<int>(sizeof(Fragment)), column_bytes = steps * step_bytes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_lanes;
  const Run run(p.sequences, p.directions.heads, runs);
  if (run.range.index == p.sequences.count)
    return clear_codes(p, {run.range, run.head, static_cast<int>(blockIdx.x) % runs * threads}, runs * threads);
  if (run.count <= 0) return;
  const Heads<const bfloat16> x = p.rows();
  const int warpgroup = __shfl_sync(0xFFFFFFFFu, thread / hopper::warpgroup_threads, 0);
  int place = run.first_row + warpgroup * unit_rows + thread % hopper::warpgroup_threads / warp_lanes * 16 +
              lane / 4 * 2;
  const bfloat16* from = row_of(x, run.range.begin + place, run.head) + lane % 4 * 8;
  LaneRows<steps> rows;
  if (warpgroup < run.count) rows.load(from, x.token_stride, place, run.range.length);
  fragments += (static_cast<std::int64_t>(run.range.index) * p.directions.heads + run.head) * plan.of_pair();
  for (int i = thread; i < plan.of_pair() / 2; i += threads)
    copy_ahead<16>(shared_address(shared + 16 * i), fragments + 2 * i, true);
  commit_copies();
  wait_copies<0>();
  hopper::fence_shared_writes();
  __syncthreads();
  const std::uint64_t directions =
      hopper::matrix_descriptor(shared_address(shared), step_bytes / 2, column_bytes);
  const std::int64_t group_stride = hashes_together * p.sequences.tokens;
  std::uint16_t* const codes = p.place(run.head, lane % hashes_together) + run.range.begin;
  for (int unit = warpgroup; unit < run.count; unit += warpgroups) {
    std::uint32_t a[steps][4];
    rows.order(a);
    from += warpgroups * unit_rows * x.token_stride;
    if (unit + warpgroups < run.count)
      rows.load(from, x.token_stride, place + warpgroups * unit_rows, run.range.length);
    std::uint16_t* to = codes;
    for (int group = 0; group < plan.groups; group += groups_together) {
      const std::uint64_t b = directions + static_cast<std::uint64_t>(group * products * column_bytes / 16);
      float sum[columns / 2];
      hopper::begin_products();
#pragma unroll
      for (int step = 0; step < steps; ++step)
        hopper::RowProduct<columns>::add(sum, a[step], b + static_cast<std::uint64_t>(step * step_bytes / 16),
                                         step > 0);
      hopper::commit_products();
      hopper::wait_products<0>();
      hopper::pin(sum);
      std::uint32_t code[groups_together][2] = {};
#pragma unroll
      for (int i = 0; i < groups_together; ++i) take_signs<products>(sum, i, code[i]);
#pragma unroll
      for (int i = 0; i < groups_together; ++i, to += group_stride)
        if ((group + i) * hashes_together + lane % hashes_together < p.shape.hashes)
          store_codes(code[i], place, run.range.length, is_aligned, to);
    }
    place += warpgroups * unit_rows;
  }
#endif
}

template <int steps, int products>
void launch_warpgroups(Cuda& cuda, const Projection<bfloat16, std::uint16_t>& p,
                       const FragmentPlan<steps, 1>& plan, const Fragment* fragments, bool is_aligned) {
  constexpr int together = 2;  // blocks of a multiprocessor
  const int bytes = plan.of_pair() * static_cast<int>(sizeof(Fragment));
  const int runs = runs_of(cuda, p.sequences, together, p.directions.heads * p.sides);
  check_cuda(cudaFuncSetAttribute(project_warpgroups<steps, products>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes),
             "hash_codes: shared memory");
  const auto blocks = static_cast<unsigned>(runs * (p.sequences.count + 1) * p.directions.heads);
  project_warpgroups<steps, products>
      <<<dim3(blocks, static_cast<unsigned>(p.sides)), warpgroups * hopper::warpgroup_threads,
         static_cast<std::size_t>(bytes), cuda.stream>>>(p, plan, fragments, runs, is_aligned);
  check_launch("hash_codes: project_warpgroups");
}

}  // namespace

template <int steps>
FragmentPlan<steps, 1> warpgroup_plan(const Cuda& cuda, const Projection<bfloat16, std::uint16_t>& p,
                                      const FragmentPlan<steps, 1>& plan) {
  FragmentPlan<steps, 1> even = plan;
  even.groups = (plan.groups + groups_together - 1) / groups_together * groups_together;
  even.is_for_warpgroups = plan.groups > 2 && plan.products >= 6 && plan.products <= 8 &&
                           even.of_pair() * static_cast<int>(sizeof(Fragment)) <= most_shared_bytes &&
                           hopper::serves(cuda, {p.x[0], p.x[1]});
  return even.is_for_warpgroups ? even : plan;
}

template <int steps>
void project_by_warpgroups(Cuda& cuda, const Projection<bfloat16, std::uint16_t>& p,
                           const FragmentPlan<steps, 1>& plan, const Fragment* fragments, bool is_aligned) {
  if (plan.products == 6)
    launch_warpgroups<steps, 6>(cuda, p, plan, fragments, is_aligned);
  else if (plan.products == 7)
    launch_warpgroups<steps, 7>(cuda, p, plan, fragments, is_aligned);
  else
    launch_warpgroups<steps, 8>(cuda, p, plan, fragments, is_aligned);
}

#define TERN_INSTANTIATE(steps)                                                                 \
  template FragmentPlan<steps, 1> warpgroup_plan<steps>(                                        \
      const Cuda&, const Projection<bfloat16, std::uint16_t>&, const FragmentPlan<steps, 1>&);  \
  template void project_by_warpgroups<steps>(Cuda&, const Projection<bfloat16, std::uint16_t>&, \
                                             const FragmentPlan<steps, 1>&, const Fragment*, bool);
TERN_INSTANTIATE(2)
TERN_INSTANTIATE(4)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
