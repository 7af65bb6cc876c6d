// The last step of bucket_sum: each own row adds the rows of its partners and the summed rows of the crowded
// buckets that it meets.
#pragma once

#include "kernels/cuda/collisions.h"
#include "kernels/layer_norm.h"

namespace tern::kernels {

template <class T, class Id>
struct BucketGather {
  Sequences sequences;
  PartnerLists<Id> lists;
  Heads<const T> value;      ///< of the partners
  const T* summed;           ///< [heads][summed_rows][width]
  std::int64_t summed_rows;  ///< of one head
  Heads<T> out;              ///< overwritten; heads as in `lists`
  Accumulate<T> scale;       ///< of the sums
  /// With data: rows of out are scaled to length one, and this is what they had before.
  Heads<Accumulate<T>> norm;
};

/// Any type and width; rows come through the second-level cache.
template <class T, class Id>
void gather_rows(Cuda& cuda, const BucketGather<T, Id>& work);

/// 16-byte parts of a value row that one block keeps in shared memory for all rows of a sequence: 8 or 4,
/// or 0 where the longest sequence or the layout does not allow it.
int resident_parts(const Cuda& cuda, const BucketGather<bfloat16, std::uint16_t>& work);
/// `parts`: as resident_parts() gave it.
void gather_resident(Cuda& cuda, const BucketGather<bfloat16, std::uint16_t>& work, int parts);

}  // namespace tern::kernels
