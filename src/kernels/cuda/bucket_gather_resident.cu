// Sums of listed bfloat16 rows out of shared memory: a block keeps one slice of the columns of all value rows
// of a sequence and works through the own rows of that sequence. Deterministic: a fixed order of additions.
// Cost: each listed row is read once from shared memory; lists once for each slice.
#include "kernels/cuda/bucket_gather_resident.cuh"
#include "kernels/cuda/heads.cuh"

namespace tern::kernels {
namespace {

using namespace resident_gather;

/// How own rows are dealt out: slices fastest, since the blocks of a sequence share its lists.
struct Deal {
  int slices;    ///< of the columns
  int splits;    ///< of the own rows of a sequence
  int run_rows;  ///< own rows that a warp takes at a time, at most 32
};

template <int parts>
__global__ void __launch_bounds__(most_threads) gather_resident_rows(Work p, Deal deal, int longest) {
  using Rows = SliceRows<parts>;
  extern __shared__ __align__(16) unsigned char shared[];
  const auto slices = static_cast<unsigned>(deal.slices), splits = static_cast<unsigned>(deal.splits);
  unsigned block = blockIdx.x;
  const int column = static_cast<int>(block % slices) * Rows::columns;
  block /= slices;
  const auto split = static_cast<int>(block % splits);
  block /= splits;
  const auto head = static_cast<int>(block % static_cast<unsigned>(p.out.heads));
  auto sequence = static_cast<int>(block / static_cast<unsigned>(p.out.heads));
  const bool is_sequence = sequence < p.sequences.count;
  if (is_sequence && p.sequences.order != nullptr) sequence = p.sequences.order[sequence];
  const SequenceRange range = sequence_range(p.sequences, sequence);
  // taken from one lane, so that the compiler knows loops over own rows as uniform in a warp
  const int warps = static_cast<int>(blockDim.x) / warp_lanes,
            warp = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warp_lanes, 0);
  if (split * warps * deal.run_rows >= range.length) return;

  const int length = is_sequence ? range.length : 0;
  std::uint32_t base = shared_address(shared);
  asm volatile("" : "+r"(base));  // as in keep_pointer()
  const Slice slice{
      base, base + static_cast<std::uint32_t>((longest + 1) * Rows::bytes + warp * Rows::stage_bytes), length};
  const bfloat16* value = row_of(p.value, range.begin, head) + column;
  for (int i = static_cast<int>(threadIdx.x); i < (length + 1) * parts; i += static_cast<int>(blockDim.x))
    copy_ahead<16>(base + static_cast<std::uint32_t>(i) * 16,
                   value + i / parts * p.value.token_stride + i % parts * part_columns, i / parts < length);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  const int step = deal.splits * warps * deal.run_rows;
  for (int first = (split * warps + warp) * deal.run_rows; first < range.length; first += step)
    sum_run<parts>(p, slice, head, column, range, first, min(range.length, first + deal.run_rows));
}

/// Short runs where there is too little work to fill the device with runs of 32.
int run_rows_for(const Cuda& cuda, std::int64_t own_rows) {
  constexpr int shortest = 8, warps_of_multiprocessor = 2 * most_threads / warp_lanes;
  int rows = warp_lanes;
  while (rows > shortest && own_rows < std::int64_t{rows} * warps_of_multiprocessor * cuda.multiprocessors)
    rows /= 2;
  return rows;
}

int threads_for(std::int64_t own_rows, int run_rows) {
  const std::int64_t warps = (own_rows + run_rows - 1) / run_rows;
  return static_cast<int>(std::clamp<std::int64_t>(warps, 1, most_threads / warp_lanes)) * warp_lanes;
}

template <int parts>
std::size_t shared_bytes(std::int64_t longest, int threads) {
  using Rows = SliceRows<parts>;
  return static_cast<std::size_t>((longest + 1) * Rows::bytes + threads / warp_lanes * Rows::stage_bytes);
}

/// Blocks that share the own rows of one slice: as many as make the time least, where bringing a slice costs a
/// tenth of its sums and multiprocessors take `together` blocks in all.
int splits_for(std::int64_t slices, std::int64_t together) {
  const auto cost = [&](int splits) {
    const std::int64_t waves = (slices * splits + together - 1) / together;
    return static_cast<double>(waves) * (0.1 + 1.0 / splits);
  };
  int best = 1;
  for (int splits = 2; splits <= 8; ++splits)
    if (cost(splits) < cost(best)) best = splits;
  return best;
}

template <int parts>
void launch(Cuda& cuda, const Work& work) {
  const std::int64_t longest = work.sequences.longest;
  const int slices = work.out.width / SliceRows<parts>::columns;
  const auto blocks_together = [&](int threads) {
    const auto by_memory = static_cast<std::size_t>(cuda.shared_memory) / shared_bytes<parts>(longest, threads);
    return std::min(static_cast<int>(by_memory), 2 * most_threads / threads) * cuda.multiprocessors;
  };
  const std::int64_t sliced = work.sequences.count * work.out.heads * slices;
  const int run_rows = run_rows_for(cuda, work.out.tokens * work.out.heads * slices);
  const int splits = splits_for(sliced, blocks_together(threads_for(longest, run_rows)));
  const int threads = threads_for((longest + splits - 1) / splits, run_rows);
  const std::size_t bytes = shared_bytes<parts>(longest, threads);
  const auto kernel = gather_resident_rows<parts>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "bucket_sum: shared memory");
  const std::int64_t blocks = (work.sequences.count + 1) * work.out.heads * splits * slices;
  kernel<<<static_cast<unsigned>(blocks), threads, bytes, cuda.stream>>>(work, {slices, splits, run_rows},
                                                                         static_cast<int>(longest));
  check_launch("bucket_sum: gather_resident");
}

template <int parts>
bool fits(const Cuda& cuda, const Work& work) {
  const std::int64_t longest = work.sequences.longest;
  return work.out.width % SliceRows<parts>::columns == 0 &&
         shared_bytes<parts>(longest, most_threads) <= static_cast<std::size_t>(cuda.shared_memory);
}

}  // namespace

int resident_parts(const Cuda& cuda, const Work& work) {
  if (!rows_are_packed(work.value) || !rows_are_packed(work.out) || !is_aligned(16, work.summed)) return 0;
  if (fits<8>(cuda, work)) return 8;
  return fits<4>(cuda, work) ? 4 : 0;
}

void gather_resident(Cuda& cuda, const Work& work, int parts) {
  if (parts == 8)
    launch<8>(cuda, work);
  else
    launch<4>(cuda, work);
  if (work.norm.data != nullptr) unit_rows_forward<bfloat16>(cuda, read_only(work.out), work.out, work.norm);
}

}  // namespace tern::kernels
