// Sums of listed rows that come through the second-level cache. Deterministic: a fixed order of additions.
// Cost: the bytes of the listed rows.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/bucket_gather.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 256;
constexpr int together = 4;  // blocks of a multiprocessor
constexpr int batch = 8;     // rows on the way before the first is added
constexpr std::uint32_t all_lanes = 0xFFFFFFFFu;

/// Entries of a list, `batch` at a time, spread over the lanes that own a row.
template <int lanes, class Entry>
struct EntryBatch {
  static constexpr int held = lanes < batch ? batch / lanes : 1;  ///< by each lane
  Entry entry[held];

  __device__ __forceinline__ void load(const Entry* list, std::uint32_t first, std::uint32_t count) {
    const std::uint32_t lane = threadIdx.x % lanes % batch;
#pragma unroll
    for (int u = 0; u < held; ++u) {
      const std::uint32_t place = first + u * lanes + lane;
      entry[u] = place < count ? list[place] : Entry{0};
    }
  }
  __device__ __forceinline__ std::uint32_t get(int i) const {
    return __shfl_sync(all_lanes, static_cast<std::uint32_t>(entry[lanes < batch ? i / lanes : 0]),
                       lanes < batch ? i % lanes : i, lanes);
  }
};

/// Neighbouring columns as they lie in memory: words that the compiler does not take apart before they are
/// added.
template <class T, int items>
struct Columns {
  using Word = std::conditional_t<items == 1, T, std::uint32_t>;
  static constexpr int words = items == 1 ? 1 : 4;
  Pack<Word, words> word = {};

  __device__ __forceinline__ void load(const T* from) {
    word = load_pack<words>(reinterpret_cast<const Word*>(from));
  }
  __device__ __forceinline__ void add_to(Accumulate<T> (&sum)[items]) const {
    if constexpr (items == 1) {
      sum[0] += to_accumulate(word.item[0]);
    } else if constexpr (std::is_same_v<T, bfloat16>) {
#pragma unroll
      for (int i = 0; i < words; ++i) {
        sum[2 * i] += __uint_as_float(word.item[i] << 16);
        sum[2 * i + 1] += __uint_as_float(word.item[i] & 0xFFFF0000u);
      }
    } else if constexpr (std::is_same_v<T, float>) {
#pragma unroll
      for (int i = 0; i < words; ++i) sum[i] += __uint_as_float(word.item[i]);
    } else {
#pragma unroll
      for (int i = 0; i < words; i += 2)
        sum[i / 2] += __hiloint2double(static_cast<int>(word.item[i + 1]), static_cast<int>(word.item[i]));
    }
  }
};

/// Adds rows `list`[0 .. count), which lie `stride` bytes apart, to `sum`. All lanes of a warp come here
/// together.
template <int lanes, int items, class T, class Entry>
__device__ __forceinline__ void add_listed(const Entry* list, std::uint32_t count, const T* rows,
                                           std::uint32_t stride, bool is_column, Accumulate<T> (&sum)[items]) {
  const std::uint32_t longest = __reduce_max_sync(all_lanes, count);
  if (longest == 0) return;
  EntryBatch<lanes, Entry> next;
  next.load(list, 0, count);
  const auto* first_row = reinterpret_cast<const char*>(rows);
#pragma unroll 1
  for (std::uint32_t first = 0; first < longest; first += batch) {
    const EntryBatch<lanes, Entry> entries = next;
    next.load(list, first + batch, count);
    Columns<T, items> columns[batch];
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      const std::uint64_t skipped = static_cast<std::uint64_t>(entries.get(u)) * stride;
      if (first + u < count && is_column) columns[u].load(reinterpret_cast<const T*>(first_row + skipped));
    }
#pragma unroll
    for (int u = 0; u < batch; ++u) columns[u].add_to(sum);
  }
}

/// Length of a row that `lanes` neighbouring lanes hold.
template <int lanes, int items, class A>
__device__ __forceinline__ A row_length(const A (&row)[items]) {
  A square = 0;
#pragma unroll
  for (int c = 0; c < items; ++c) square += row[c] * row[c];
  return sqrt(warp_sum(square, lanes));
}

/// `lanes` neighbouring lanes own a row, each of them `items` columns of every `lanes` * `items`.
template <int lanes, int items, class T, class Id>
__device__ __forceinline__ void gather_row(const BucketGather<T, Id>& p, std::int64_t own) {
  using A = Accumulate<T>;
  const bool is_row = own < p.out.heads * p.out.tokens;
  const int head = is_row ? static_cast<int>(own / p.out.tokens) : 0;
  const auto token = static_cast<int>(is_row ? own % p.out.tokens : 0);
  const SequenceRange range = find_sequence(p.sequences, token);
  EntryRange few{0, 0}, crowded{0, 0};
  if (is_row && range.index < p.sequences.count) {  // rows outside sequences get zeros
    few = p.lists.few[head * p.lists.tokens + token];
    crowded = p.lists.crowded[head * p.lists.tokens + token];
  }
  const Id* ids = p.lists.ids + head * p.lists.id_stride + few.first;
  const std::uint32_t* sums = p.lists.sums + head * p.lists.sum_stride + crowded.first;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (int first_column = 0; first_column < p.out.width; first_column += lanes * items) {
    const int column = first_column + lane * items;
    const bool is_column = column < p.out.width;
    A sum[items] = {};
    add_listed<lanes, items, T>(ids, few.count, row_of(p.value, range.begin, head) + column,
                                static_cast<std::uint32_t>(p.value.token_stride * sizeof(T)), is_column, sum);
    add_listed<lanes, items, T>(sums, crowded.count, p.summed + head * p.summed_rows * p.out.width + column,
                                static_cast<std::uint32_t>(p.out.width * sizeof(T)), is_column, sum);
    A scale = p.scale;
    if (p.norm.data != nullptr) {  // a row is one pass
      const A length = scale * row_length<lanes>(sum);
      scale /= max(length, A(smallest_norm));
      if (is_row && lane == 0) *row_of(p.norm, token, head) = length;
    }
    Pack<T, items> pack;
#pragma unroll
    for (int c = 0; c < items; ++c) pack.item[c] = from_accumulate<T>(scale * sum[c]);
    if (is_row && is_column) store_pack(row_of(p.out, token, head) + column, pack);
  }
}

/// A multiprocessor's blocks, as they are dealt out to a grid of `together` for each, take neighbouring rows
/// one after another: the partners of a sequence's rows stay in its first-level cache.
template <int lanes, int items, class T, class Id>
__global__ void __launch_bounds__(threads, together) gather(BucketGather<T, Id> p) {
  constexpr int tile = threads / lanes;
  const auto tiles = static_cast<std::uint32_t>((p.out.tokens * p.out.heads + tile - 1) / tile);
  const std::uint32_t parts = gridDim.x / together, part = blockIdx.x % parts;
  const auto first_of = [&](std::uint32_t i) {  // tiles of the parts before i
    return i * (tiles / parts) + min(i, tiles % parts);
  };
  const std::uint32_t end = first_of(part + 1);
#pragma unroll 1
  for (std::uint32_t i = first_of(part) + blockIdx.x / parts; i < end; i += together)
    gather_row<lanes, items>(p, std::int64_t{i} * tile + static_cast<int>(threadIdx.x) / lanes);
}

template <int lanes, int items, class T, class Id>
void launch(Cuda& cuda, BucketGather<T, Id> work) {
  constexpr int rows = threads / lanes * together;
  const std::int64_t needed = (work.out.tokens * work.out.heads + rows - 1) / rows;
  const Heads<Accumulate<T>> norm = work.norm;
  const bool is_one_pass = work.out.width <= lanes * items;
  if (!is_one_pass) work.norm = {};
  gather<lanes, items, T, Id>
      <<<static_cast<unsigned>(std::min<std::int64_t>(needed, cuda.multiprocessors) * together), threads, 0,
         cuda.stream>>>(work);
  check_launch("bucket_sum: gather");
  if (norm.data != nullptr && !is_one_pass) unit_rows_forward<T>(cuda, read_only(work.out), work.out, norm);
}

}  // namespace

template <class T, class Id>
void gather_rows(Cuda& cuda, const BucketGather<T, Id>& work) {
  constexpr int items = pack_items<T>;
  if (!rows_are_packed(work.value) || !rows_are_packed(work.out) || !is_aligned(16, work.summed))
    launch<16, 1>(cuda, work);
  else if (work.out.width <= 4 * items)
    launch<4, items>(cuda, work);
  else if (work.out.width <= 8 * items)
    launch<8, items>(cuda, work);
  else
    launch<16, items>(cuda, work);
}

#define TERN_INSTANTIATE(T)                                                                  \
  template void gather_rows<T, std::uint16_t>(Cuda&, const BucketGather<T, std::uint16_t>&); \
  template void gather_rows<T, std::uint32_t>(Cuda&, const BucketGather<T, std::uint32_t>&);
TERN_INSTANTIATE(float)
TERN_INSTANTIATE(double)
TERN_INSTANTIATE(bfloat16)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
