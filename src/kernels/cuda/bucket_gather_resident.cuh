// How one warp sums listed rows out of shared memory.
//
// Tensor cores add: ldmatrix brings 8 columns of 8 listed rows a matrix to where mma.sync wants its second
// factor, and the first factor is a constant pattern of ones that sends each 16-byte part to its own row of the
// sums. Sums are float32 and ones are exact, so this is plain summation at a fifth of the instructions.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/bucket_gather.h"
#include "kernels/cuda/ragged.cuh"
#include "kernels/cuda/warp_products.cuh"

namespace tern::kernels::resident_gather {

using Work = BucketGather<bfloat16, std::uint16_t>;

constexpr int most_threads = 1024;

constexpr int part_columns = 8;  // 16 bytes
constexpr std::uint32_t all_lanes = 0xFFFFFFFFu;

__device__ __forceinline__ int warp_lane() { return static_cast<int>(threadIdx.x) % warp_lanes; }

/// Makes the compiler keep the pointer in registers instead of adding up its parts at each use.
template <class T>
__device__ __forceinline__ void keep_pointer(const T*& pointer) {
  asm volatile("" : "+l"(pointer));
}

/// Rows of `parts` 16-byte parts in shared memory.
template <int parts>
struct SliceRows {
  static constexpr int bytes = 16 * parts;
  static constexpr int columns = part_columns * parts;
  static constexpr int of_step = warp_lanes / parts;  ///< rows that one ldmatrix reads
  static constexpr int staged_steps = 2;
  static constexpr int staged = staged_steps * of_step;   ///< summed rows on their way to shared memory
  static constexpr int stage_bytes = 2 * staged * bytes;  ///< of one warp
};

/// Sums of `owners` own rows in the registers of a warp: row part * owners + owner of the product's 16.
template <int parts>
class OwnerSums {
 public:
  static constexpr int owners = 16 / parts;

  __device__ OwnerSums() {
    const int depth = 2 * (warp_lane() % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int part = row(half) / owners;
      ones_[half] = (depth % parts == part ? 0x3F80u : 0u) | ((depth + 1) % parts == part ? 0x3F800000u : 0u);
    }
  }
  /// From here on rows belong to `owner`.
  __device__ __forceinline__ void select(int owner) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      factor_[half] = factor_[half + 2] = row(half) % owners == owner ? ones_[half] : 0;
  }
  /// Adds SliceRows<parts>::of_step rows; lane i gives the address of part i % parts of row i / parts.
  __device__ __forceinline__ void add(std::uint32_t address) {
    std::uint32_t rows[4];
    load_matrices_transposed(rows, address);
    add_product(sum_[0], factor_, rows[0], rows[1]);
    add_product(sum_[1], factor_, rows[2], rows[3]);
  }
  /// Writes the sums of own rows first .. min(first + owners, end) - 1 and starts anew; `rows`: own row 0.
  __device__ __forceinline__ void store(const Heads<bfloat16>& out, bfloat16* rows, int first, int end,
                                        float scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int own = first + row(half) % owners;
      bfloat16* to = rows + own * out.token_stride + row(half) / owners * part_columns + 2 * (warp_lane() % 4);
      const int i = 2 * half;
      if (own < end)
        *reinterpret_cast<std::uint32_t*>(to) =
            pack_pair(scale * (sum_[0][i] + sum_[1][i]), scale * (sum_[0][i + 1] + sum_[1][i + 1]));
      sum_[0][i] = sum_[0][i + 1] = sum_[1][i] = sum_[1][i + 1] = 0;
    }
  }

 private:
  __device__ __forceinline__ static int row(int half) { return warp_lane() / 4 + 8 * half; }

  std::uint32_t ones_[2], factor_[4] = {};
  float sum_[2][4] = {};
};

/// Where a block's rows lie in shared memory.
struct Slice {
  std::uint32_t rows, stage;
  int zero_row;  ///< number of a row of zeros
};

/// Adds listed rows: `id` of lane i belongs to entry i, `left` entries in all (beyond 32 of no concern).
template <int parts>
__device__ __forceinline__ void add_listed(OwnerSums<parts>& sums, std::uint32_t id, int left,
                                           std::uint32_t lane_rows) {
  using Rows = SliceRows<parts>;
#pragma unroll
  for (int step = 0; step < parts; ++step) {
    const std::uint32_t row = __shfl_sync(all_lanes, id, step * Rows::of_step + warp_lane() / parts);
    if (step * Rows::of_step < left) sums.add(lane_rows + row * Rows::bytes);
  }
}

/// Adds the rows listed one by one for owners first .. last - 1 of the run; `few`: of the lane's own row.
template <int parts>
__device__ __forceinline__ void add_few(OwnerSums<parts>& sums, const std::uint16_t* ids, EntryRange few,
                                        const Slice& slice, int first, int last) {
  constexpr int ahead = 2;  // times 32 ids of an owner are read while the owner before it is summed
  const int lane = warp_lane();
  const std::uint32_t lane_rows = slice.rows + static_cast<std::uint32_t>(lane % parts * 16);
  std::uint32_t id[ahead], next[ahead];
  std::uint32_t begin = 0;
  int count = 0;
  const auto read = [&](int place) {
    return lane + place < count ? __ldg(ids + (begin + static_cast<std::uint32_t>(place)))
                                : static_cast<std::uint32_t>(slice.zero_row);
  };
  const auto read_ahead = [&](int owner) {
    begin = __shfl_sync(all_lanes, few.first, owner);
    count = static_cast<int>(__shfl_sync(all_lanes, few.count, owner));
#pragma unroll
    for (int u = 0; u < ahead; ++u) next[u] = read(u * warp_lanes);
  };
  read_ahead(first);
#pragma unroll 1
  for (int owner = first; owner < last; ++owner) {
    sums.select(owner - first);
    const int left = count;
#pragma unroll
    for (int u = 0; u < ahead; ++u) id[u] = next[u];
#pragma unroll 1
    for (int place = ahead * warp_lanes; place < left; place += warp_lanes)
      add_listed<parts>(sums, read(place), left - place, lane_rows);
    read_ahead(owner + 1);
#pragma unroll
    for (int u = 0; u < ahead; ++u)
      if (u * warp_lanes < left) add_listed<parts>(sums, id[u], left - u * warp_lanes, lane_rows);
  }
}

/// Summed rows of the crowded buckets that the owners in `mask` meet: they pass through the warp's stage, one
/// piece ahead of the sums.
template <int parts>
class SummedRows {
 public:
  using Rows = SliceRows<parts>;

  /// `crowded`: of the lane's own row; `sums`, `summed` and `stage`: at the lane's part.
  __device__ SummedRows(const std::uint32_t* sums, const bfloat16* summed, int width, EntryRange crowded,
                        std::uint32_t stage, std::uint32_t mask)
      : crowded_(crowded),
        sums_(sums),
        summed_(reinterpret_cast<const char*>(summed)),
        row_bytes_(static_cast<std::uint32_t>(width) * 2),
        stage_(stage),
        mask_(mask) {
    keep_pointer(sums_);
    keep_pointer(summed_);
    start();
    next_ = row_number();
  }
  __device__ __forceinline__ void add_to(OwnerSums<parts>& sums) {
    Piece now = copy();
    while (now.count > 0) {
      const Piece next = copy();
      wait_copies<1>();
      __syncwarp();
      sums.select(now.owner & (OwnerSums<parts>::owners - 1));
#pragma unroll
      for (int step = 0; step < Rows::staged_steps; ++step)
        if (step * Rows::of_step < now.count) sums.add(now.stage + step * 512);
      __syncwarp();
      now = next;
    }
    wait_copies<0>();
  }

 private:
  /// Rows of one owner in the stage; none after the last.
  struct Piece {
    int owner, count;
    std::uint32_t stage;
  };

  __device__ __forceinline__ void start() {
    owner_ = __ffs(static_cast<int>(mask_)) - 1;
    mask_ &= mask_ - 1;
    first_ = __shfl_sync(all_lanes, crowded_.first, owner_);
    left_ = static_cast<int>(__shfl_sync(all_lanes, crowded_.count, owner_));
    if (owner_ < 0) left_ = 0;
  }
  __device__ __forceinline__ std::uint32_t row_number() const {
    return warp_lane() < left_ ? __ldg(sums_ + first_) : 0;
  }
  /// Starts the copy of the piece whose row numbers are there, and gets those of the piece after it.
  __device__ __forceinline__ Piece copy() {
    const Piece piece{owner_, min(left_, Rows::staged), stage_ + half_};
    const std::uint32_t row = next_;
    first_ += Rows::staged;
    left_ -= Rows::staged;
    if (left_ <= 0) start();
    next_ = row_number();
#pragma unroll
    for (int step = 0; step < Rows::staged_steps; ++step) {
      const int place = step * Rows::of_step + warp_lane() / parts;
      const std::uint32_t from = __shfl_sync(all_lanes, row, place);
      if (step * Rows::of_step < piece.count)
        copy_ahead<16>(piece.stage + step * 512, summed_ + static_cast<std::uint64_t>(from) * row_bytes_,
                       place < piece.count);
    }
    commit_copies();
    half_ ^= Rows::staged_steps * 512;
    return piece;
  }

  EntryRange crowded_;
  const std::uint32_t* sums_;
  const char* summed_;
  std::uint32_t row_bytes_, stage_, mask_, half_ = 0, next_ = 0, first_ = 0;
  int owner_, left_ = 0;
};

/// Own rows first .. end - 1, at most 32, of a sequence, by one warp.
template <int parts>
__device__ __forceinline__ void sum_run(const Work& p, const Slice& slice, int head, int column,
                                        const SequenceRange& range, int first, int end) {
  constexpr int owners = OwnerSums<parts>::owners;
  const int lane = warp_lane();
  EntryRange few{0, 0}, crowded{0, 0};
  if (first + lane < end && range.index < p.sequences.count) {  // rows outside sequences get zeros
    const std::int64_t place = head * p.lists.tokens + range.begin + first + lane;
    few = p.lists.few[place];
    crowded = p.lists.crowded[place];
  }
  const std::uint32_t meet_crowded = __ballot_sync(all_lanes, crowded.count > 0);
  const std::uint16_t* ids = p.lists.ids + head * p.lists.id_stride + lane;
  keep_pointer(ids);
  bfloat16* out = row_of(p.out, range.begin, head) + column;
  OwnerSums<parts> sums;
#pragma unroll 1
  for (int owner = 0; owner < end - first; owner += owners) {
    add_few<parts>(sums, ids, few, slice, owner, min(owner + owners, end - first));
    const std::uint32_t mask = meet_crowded & ((1u << owners) - 1) << owner;
    if (mask != 0) {
      const bfloat16* summed =
          p.summed + head * p.summed_rows * p.out.width + column + lane % parts * part_columns;
      SummedRows<parts>(p.lists.sums + head * p.lists.sum_stride + lane, summed, p.out.width, crowded,
                        slice.stage + static_cast<std::uint32_t>(lane) * 16, mask)
          .add_to(sums);
    }
    sums.store(p.out, out, first + owner, end, p.scale);
  }
}

}  // namespace tern::kernels::resident_gather
