// Rows of ragged batches sorted by hash code, and who collides with whom.
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {

/// Rows of one code: `count` of them from `first` in the sorted order of their sequence.
struct Bucket {
  std::uint32_t first, count;
};

/// The rows of each (head, hash) and sequence in the order of their codes, rows of one code in the order of the
/// sequence. A list is all rows of a (head, hash); number head * hashes + hash.
template <class Code>
struct BucketLists {
  const Code* codes;     ///< [lists][tokens], as hash_codes wrote them
  std::uint32_t* order;  ///< [lists][tokens] place in the sequence of the row that comes there
  std::uint32_t* table;  ///< [lists][table_stride] see table_of()
  std::int64_t tokens, table_stride;
  int bits;
};

/// The part of one list that belongs to one sequence.
template <class Code>
struct SortedRows {
  const Code* codes;           ///< by place in the sequence
  const std::uint32_t* order;  ///< by place in the sorted order
  /// Entry x: how many rows have codes below x << shift. The codes that share an entry, if any do (where codes
  /// have more bits than the length of the sequence deserves), are told apart by binary search.
  const std::uint32_t* table;
  int shift;

  __device__ __forceinline__ Bucket find(std::uint32_t code) const {
    const std::uint32_t x = code >> shift, first = table[x], last = table[x + 1];
    if (shift == 0 || first == last) return {first, last - first};
    const std::uint32_t low = lower_bound(first, last, code);
    return {low, lower_bound(low, last, code + 1) - low};
  }

 private:
  __device__ std::uint32_t lower_bound(std::uint32_t low, std::uint32_t high, std::uint32_t code) const {
    while (low < high) {
      const std::uint32_t middle = (low + high) / 2;
      if (codes[order[middle]] < code)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

/// Low bits of a code that the table of a sequence of `length` >= 1 rows leaves out; it has at most 4 * length
/// entries.
__host__ __device__ __forceinline__ int table_shift(int bits, int length) {
#ifdef __CUDA_ARCH__
  const int enough = 33 - __clz(length - 1);
#else
  const int enough = 1 + static_cast<int>(std::bit_width(static_cast<unsigned>(length - 1)));
#endif
  return bits > enough ? bits - enough : 0;
}

/// Where the table of a sequence starts: sequences before it own min(4 * rows, count * (2^bits + 1)) entries.
template <class Code>
__device__ __forceinline__ std::int64_t table_place(const BucketLists<Code>& lists,
                                                    const SequenceRange& range) {
  const std::int64_t by_rows = 4 * static_cast<std::int64_t>(range.begin);
  const std::int64_t by_codes = static_cast<std::int64_t>(range.index) * ((1 << lists.bits) + 1);
  return min(by_rows, by_codes);
}

/// `range` must hold a row.
template <class Code>
__device__ __forceinline__ SortedRows<Code> rows_of(const BucketLists<Code>& lists, std::int64_t list,
                                                    const SequenceRange& range) {
  const std::int64_t place = list * lists.tokens + range.begin;
  return {lists.codes + place, lists.order + place,
          lists.table + list * lists.table_stride + table_place(lists, range),
          table_shift(lists.bits, range.length)};
}

/// Memory of the lists of `lists` (head, hash)es.
template <class Code>
class BucketMemory {
 public:
  BucketMemory(Cuda& cuda, const Sequences& sequences, int bits, std::int64_t lists)
      : tokens_(sequences.tokens),
        stride_(table_stride(sequences, bits)),
        bits_(bits),
        order_(cuda, lists * tokens_),
        table_(cuda, lists * stride_) {}
  BucketLists<Code> lists(const Code* codes) const {
    return {codes, order_.data(), table_.data(), tokens_, stride_, bits_};
  }
  /// For one list.
  static std::int64_t bytes(const Sequences& sequences, int bits) {
    return 4 * (sequences.tokens + table_stride(sequences, bits));
  }

 private:
  static std::int64_t table_stride(const Sequences& sequences, int bits) {
    return std::min<std::int64_t>(4 * sequences.tokens, sequences.count * ((std::int64_t{1} << bits) + 1));
  }
  std::int64_t tokens_, stride_;
  int bits_;
  Scratch<std::uint32_t> order_, table_;
};

/// Fills the first `count` lists.
template <class Code>
void sort_into_buckets(Cuda& cuda, const Sequences& sequences, const BucketLists<Code>& lists,
                       std::int64_t count);

/// Heads whose scratch memory stays near a fixed size when they are worked off together.
inline int heads_together(std::int64_t bytes_of_head, int heads) {
  constexpr std::int64_t most_bytes = std::int64_t{256} << 20;
  return static_cast<int>(
      std::clamp<std::int64_t>(most_bytes / std::max<std::int64_t>(1, bytes_of_head), 1, heads));
}

/// Buckets of one row in up to four hashes, joined to one list of entries.
struct JoinedBuckets {
  static constexpr int hashes = 4;
  std::uint32_t shift[hashes];  ///< entry + shift = place in the sorted order, from the row's first hash on
  std::uint32_t end[hashes];    ///< entries of this hash and those before it

  __device__ __forceinline__ std::uint32_t count() const { return end[hashes - 1]; }
  __device__ __forceinline__ std::uint32_t place(std::uint32_t entry) const {
    const std::uint32_t low = entry < end[0] ? shift[0] : shift[1];
    const std::uint32_t high = entry < end[2] ? shift[2] : shift[3];
    return entry + (entry < end[1] ? low : high);
  }
};

}  // namespace tern::kernels
