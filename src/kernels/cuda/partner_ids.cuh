// The rows that collide with a row, hash after hash, collected by a group of
// lanes: each lane looks up another hash, all write the places of the rows they
// found to shared memory, one after the other, and the group then works through
// one dense list. The order of a list depends on the data only.
#pragma once

#include "kernels/cuda/bucket_lists.cuh"

namespace tern::kernels {

/// Lanes of a group: as many as a row's packs need, at least 8 for the
/// look-ups.
inline int lanes_of_group(int lanes_of_row) { return std::max(8, lanes_of_row); }

/// What one lane has still to hand out of its bucket.
struct BucketCursor {
  const std::uint32_t* next = nullptr;
  std::uint32_t left = 0;
};

/// Places that one lane hands out at a time: what small buckets hold.
constexpr int places_of_lane = few_rows;
constexpr int places_of_warp = places_of_lane * warp_lanes;

/// Moves up to places_of_lane places of each lane to the list of its group,
/// which starts at `places`; returns the length of the list. All lanes of the
/// warp take part.
__device__ __forceinline__ std::uint32_t collect_places(BucketCursor& cursor, int group_lanes,
                                                        std::uint32_t* places) {
  const std::uint32_t count = min(cursor.left, std::uint32_t{places_of_lane});
  const int lane = static_cast<int>(threadIdx.x) % group_lanes;
  std::uint32_t end = count;
  for (int step = 1; step < group_lanes; step *= 2) {
    const std::uint32_t other = __shfl_up_sync(0xFFFFFFFFu, end, step, group_lanes);
    if (lane >= step) end += other;
  }
  const std::uint32_t total = __shfl_sync(0xFFFFFFFFu, end, group_lanes - 1, group_lanes);
  std::uint32_t* to = places + (end - count);
  __syncwarp();  // the list before has been read
#pragma unroll 4
  for (std::uint32_t i = 0; i < count; ++i) to[i] = cursor.next[i];
  cursor.next += count;
  cursor.left -= count;
  __syncwarp();
  return total;
}

}  // namespace tern::kernels
