// Visits of partners one by one, their rows fetched through the second-level cache, for any type and width.
// Deterministic: a row adds its partners in the order of its list. Cost: two rows of partners for each entry of
// the lists.
#include "kernels/cuda/collision_visits.h"
#include "kernels/cuda/collision_weight.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 256;

/// Columns of one lane as they lie in memory: `packs` times `items` neighbours, `lanes` * `items` apart.
template <class T, int items, int packs, int lanes>
struct LaneColumns {
  using A = Accumulate<T>;
  static constexpr int count = items * packs;
  Pack<T, items> pack[packs];

  __device__ static __forceinline__ int column(int k) {
    return (k * lanes + static_cast<int>(threadIdx.x) % lanes) * items;
  }
  /// Zeros outside of the row, and everywhere unless `is_there`.
  __device__ __forceinline__ void load(const T* row, int width, bool is_there) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      pack[k] = {};
      if (is_there && column(k) < width) pack[k] = load_pack<items>(row + column(k));
    }
  }
  __device__ __forceinline__ A at(int i) const { return to_accumulate(pack[i / items].item[i % items]); }
  __device__ __forceinline__ A dot(const LaneColumns& other) const {
    A sum{};
#pragma unroll
    for (int i = 0; i < count; ++i) sum += at(i) * other.at(i);
    return sum;
  }
  __device__ __forceinline__ void add_to(A (&sum)[count], A factor) const {
#pragma unroll
    for (int i = 0; i < count; ++i) sum[i] += factor * at(i);
  }
  __device__ __forceinline__ void add_to(A (&sum)[count]) const {
#pragma unroll
    for (int i = 0; i < count; ++i) sum[i] += at(i);
  }
  __device__ static __forceinline__ void store(T* row, int width, const A (&sum)[count]) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      if (column(k) >= width) break;
      Pack<T, items> pack;
#pragma unroll
      for (int u = 0; u < items; ++u) pack.item[u] = from_accumulate<T>(sum[k * items + u]);
      store_pack(row + column(k), pack);
    }
  }
};

/// `lanes` neighbouring lanes own a row, and have the rows of `batch` partners under way at a time.
template <int items, int packs, int lanes, bool has_dy, class T, class Id>
__global__ void __launch_bounds__(threads, packs > 1 ? 1
                                           : has_dy  ? 3
                                                     : 4) visit(PartnerVisits<T, Id> p) {
  using A = Accumulate<T>;
  using Columns = LaneColumns<T, items, packs, lanes>;
  constexpr int batch = packs == 1 ? 2 : 1;
  const PartnerLists<Id>& lists = p.collisions.lists;
  const std::int64_t own = thread_index() / lanes;
  const bool is_row = own < p.dx.tokens * p.dx.heads;
  const int head = is_row ? static_cast<int>(own / p.dx.tokens) : 0;
  const int token = is_row ? static_cast<int>(own % p.dx.tokens) : 0, width = p.dx.width;
  const SequenceRange range = find_sequence(p.sequences, token);
  const bool has_partners = is_row && range.index != p.sequences.count;
  EntryRange entries{0, 0}, sums{0, 0};
  if (has_partners) {
    entries = lists.few[own];
    sums = lists.crowded[own];
  }
  Columns own_x, own_y;
  own_y.load(row_of(p.own_y, token, head), width, has_partners);
  own_x.load(row_of(p.own_x, token, head), width, has_partners && (p.is_exact || p.norm.data != nullptr));
  A dx[Columns::count] = {}, dy[Columns::count] = {};
  const T* partner_x = row_of(p.partner_x, range.begin, head);
  const T* partner_y = row_of(p.partner_y, range.begin, head);
  const Id* ids = lists.ids + head * lists.id_stride + entries.first;
  Id next[batch];
  const auto fetch_ids = [&](std::uint32_t first) {
#pragma unroll
    for (int u = 0; u < batch; ++u) next[u] = first + u < entries.count ? ids[first + u] : Id{0};
  };
  fetch_ids(0);
  const std::uint32_t most = __reduce_max_sync(0xFFFFFFFFu, entries.count);
  for (std::uint32_t e = 0; e < most; e += batch) {
    Columns x[batch], y[batch];
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      y[u].load(partner_y + next[u] * p.partner_y.token_stride, width, e + u < entries.count);
      x[u].load(partner_x + next[u] * p.partner_x.token_stride, width, e + u < entries.count);
    }
    fetch_ids(e + batch);
    A gain[batch];
#pragma unroll
    for (int u = 0; u < batch; ++u) gain[u] = own_y.dot(y[u]);
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) {
#pragma unroll
      for (int u = 0; u < batch; ++u) gain[u] += __shfl_xor_sync(0xFFFFFFFFu, gain[u], step);
    }
    if (p.is_exact) {
#pragma unroll
      for (int u = 0; u < batch; ++u) gain[u] *= exact_weight(warp_sum(own_x.dot(x[u]), lanes));
    }
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      x[u].add_to(dx, gain[u]);
      if constexpr (has_dy) y[u].add_to(dy);
    }
  }
  if (sums.count > 0) {
    A* crowded = p.crowded + own * width;
#pragma unroll
    for (int i = 0; i < Columns::count; ++i) {
      const int c = Columns::column(i / items) + i % items;
      if (c >= width) continue;
      dx[i] += crowded[c];
      crowded[c] = 0;
    }
  }
#pragma unroll
  for (int i = 0; i < Columns::count; ++i) dx[i] *= p.scale;
  if (p.norm.data != nullptr) {
    A dot = 0;
#pragma unroll
    for (int i = 0; i < Columns::count; ++i) dot += own_x.at(i) * dx[i];
    own_x.add_to(dx, -warp_sum(dot, lanes));
    const A length = has_partners ? *row_of(p.norm, token, head) : A(0),
            factor = length < A(smallest_norm) ? A(0) : A(1) / length;
#pragma unroll
    for (int i = 0; i < Columns::count; ++i) dx[i] *= factor;
  }
  if (!is_row) return;
  Columns::store(row_of(p.dx, token, head), width, dx);
  if constexpr (has_dy) {
    for (std::uint32_t e = 0; e < sums.count; ++e) {
      const std::uint32_t row = lists.sums[head * lists.sum_stride + sums.first + e];
      Columns y;
      y.load(p.summed + (head * p.summed_rows + row) * width, width, true);
      y.add_to(dy);
    }
#pragma unroll
    for (int i = 0; i < Columns::count; ++i) dy[i] *= p.value_scale;
    Columns::store(row_of(p.dy, token, head), width, dy);
  }
}

template <int items, int packs, int lanes, class T, class Id>
void launch(Cuda& cuda, const PartnerVisits<T, Id>& p) {
  const std::int64_t work = p.dx.tokens * p.dx.heads * lanes;
  const auto blocks = static_cast<unsigned>((work + threads - 1) / threads);
  if (p.dy.data != nullptr)
    visit<items, packs, lanes, true, T, Id><<<blocks, threads, 0, cuda.stream>>>(p);
  else
    visit<items, packs, lanes, false, T, Id><<<blocks, threads, 0, cuda.stream>>>(p);
  check_launch("collision_gradients: visit");
}

}  // namespace

template <class T, class Id>
void visit_partners(Cuda& cuda, const PartnerVisits<T, Id>& visits) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_partner_tiles(visits)) return visit_partner_tiles(cuda, visits);
  }
  constexpr int items = pack_items<T>, widest = 256;
  const int width = visits.dx.width;
  if (!visits.packed) return launch<1, widest / warp_lanes, warp_lanes>(cuda, visits);
  if constexpr (sizeof(T) == 2) {
    if (width <= 4 * items) return launch<items, 1, 4>(cuda, visits);
    if (width <= 8 * items) return launch<items, 1, 8>(cuda, visits);
  }
  if constexpr (sizeof(T) < 8) {
    if (width <= 16 * items) return launch<items, 1, 16>(cuda, visits);
  }
  if (width <= warp_lanes * items) return launch<items, 1, warp_lanes>(cuda, visits);
  if constexpr (sizeof(T) > 2) launch<items, widest / (warp_lanes * items), warp_lanes>(cuda, visits);
}

#define TERN_INSTANTIATE(T)                                                                      \
  template void visit_partners<T, std::uint16_t>(Cuda&, const PartnerVisits<T, std::uint16_t>&); \
  template void visit_partners<T, std::uint32_t>(Cuda&, const PartnerVisits<T, std::uint32_t>&);
TERN_INSTANTIATE(float)
TERN_INSTANTIATE(double)
TERN_INSTANTIATE(bfloat16)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
