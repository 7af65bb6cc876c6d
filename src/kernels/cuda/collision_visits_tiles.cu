// Visits of partners that come through the second-level cache, bfloat16 rows with products on tensor cores. A
// warp owns 16 rows, with their sums in registers, and takes the partners of all of them 16 at a time, of any
// owners: the next partners' rows are copied to shared memory meanwhile. Of the products of all 16 x 16 rows
// only (partner, its owner) are kept; these weights times the partners' rows are the sums. A weight is the sum
// of two bfloat16 numbers, so that 16 bits of it count. Deterministic: a row adds its partners in the order of
// its list, in groups that depend on the lists alone. Cost: two rows of partners for each entry of the lists.
#include "kernels/cuda/collision_visits.h"
#include "kernels/cuda/collision_visits_rows.cuh"

namespace tern::kernels {
namespace {

constexpr int threads = 64, warps = threads / warp_lanes;  ///< few, so that short lists make room early
constexpr int tile_rows = 16;                              ///< own rows of a warp
constexpr int step_rows = 16;                              ///< partners of a step
constexpr int stages = 3;  ///< steps in shared memory: one in work, the others on their way
constexpr std::uint32_t all_lanes = 0xFFFFFFFFu;

/// Rows of one step in shared memory.
template <int width>
struct Step {
  bfloat16 y[step_rows * width], x[step_rows * width];

  static constexpr int chunks = width / 8;  ///< of 16 bytes in a row
  static constexpr std::uint32_t x_offset = step_rows * width * sizeof(bfloat16), bytes = 2 * x_offset;

  /// Chunks are exchanged such that equal chunks of eight neighbouring rows lie in different banks.
  __device__ static __forceinline__ std::uint32_t place(std::uint32_t row, std::uint32_t chunk) {
    return row * (2 * width) + ((chunk ^ row / (8 / chunks) % chunks) << 4);
  }
};

/// The partners of neighbouring rows one after another. Entry e of all lies at ids[e + start] where a run of
/// rows has its lists in one piece and belongs to one sequence, as nearly all warps' rows do.
struct JoinedLists {
  std::uint32_t before, count;  ///< of row `lane`: entries of the rows before it, and its own
  std::uint32_t start, total;
  int begin;           ///< of its sequence
  std::uint32_t left;  ///< rows whose entries are still to come

  /// Entries `first` .. `end` - 1, with partners counted from token `begin` on.
  struct Run {
    std::uint32_t first, end, start;
    int begin;
  };

  template <class Id>
  __device__ __forceinline__ JoinedLists(const PartnerVisits<bfloat16, Id>& p, WarpRows& own)
      : count(0), start(0), begin(0) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
    bool has_partners = false;
    if (lane < own.count) {
      const SequenceRange range = find_sequence(p.sequences, own.first + lane);
      has_partners = range.index != p.sequences.count;
      begin = range.begin;
      const EntryRange few = p.collisions.lists.few[own.head * p.dx.tokens + own.first + lane];
      count = has_partners ? few.count : 0;
      start = few.first;
    }
    own.has_partners = __ballot_sync(all_lanes, has_partners);
    std::uint32_t end = count;
#pragma unroll
    for (int step = 1; step < tile_rows; step *= 2) {
      const std::uint32_t other = __shfl_up_sync(all_lanes, end, step);
      if (lane >= step) end += other;
    }
    before = end - count;
    start -= before;
    total = __shfl_sync(all_lanes, end, tile_rows - 1);
    left = __ballot_sync(all_lanes, count > 0);
  }

  /// The next run, while rows are left.
  __device__ __forceinline__ Run next() {
    const int row = __ffs(static_cast<int>(left)) - 1;
    Run run{__shfl_sync(all_lanes, before, row), total, __shfl_sync(all_lanes, start, row),
            __shfl_sync(all_lanes, begin, row)};
    const std::uint32_t others = left & ~__ballot_sync(all_lanes, start == run.start && begin == run.begin);
    left = 0;
    if (others == 0) return run;
    const int other = __ffs(static_cast<int>(others)) - 1;
    run.end = __shfl_sync(all_lanes, before, other);
    left = __ballot_sync(all_lanes, count > 0) >> other << other;
    return run;
  }
};

/// Copies the rows of a run's partners to shared memory, a step after the other.
template <int width, class Id>
struct PartnerCopies {
  using Layout = Step<width>;
  static constexpr int rows_together = warp_lanes / Layout::chunks;  ///< rows that the lanes copy at once

  const Id* ids;
  const char *y, *x;
  std::uint32_t y_stride, x_stride;  ///< bytes
  std::uint32_t count, held, next;   ///< entries; ids of two steps, and those of the two that follow
  std::uint32_t target, buffers;     ///< of the next step; where the warp's steps start
  std::uint32_t step = 0;

  __device__ __forceinline__ PartnerCopies(const PartnerVisits<bfloat16, Id>& p, int head,
                                           const JoinedLists::Run& run, std::uint32_t buffers)
      : ids(p.collisions.lists.ids + head * p.collisions.lists.id_stride + (run.first + run.start)),
        y_stride(static_cast<std::uint32_t>(p.partner_y.token_stride * sizeof(bfloat16))),
        x_stride(static_cast<std::uint32_t>(p.partner_x.token_stride * sizeof(bfloat16))),
        count(run.end - run.first),
        target(buffers),
        buffers(buffers) {
    const auto column = lane() % Layout::chunks * 8;
    y = reinterpret_cast<const char*>(row_of(p.partner_y, run.begin, head) + column);
    x = reinterpret_cast<const char*>(row_of(p.partner_x, run.begin, head) + column);
    held = load(0);
    next = load(warp_lanes);
  }

  __device__ static __forceinline__ std::uint32_t lane() { return threadIdx.x % warp_lanes; }
  __device__ __forceinline__ std::uint32_t load(std::uint32_t first) const {
    return first + lane() < count ? ids[first + lane()] : 0;
  }

  /// Starts the copies of the next step, a group of copies even where none is left; zeros behind the last.
  __device__ __forceinline__ void start() {
    const std::uint32_t first = step * step_rows;
    if (first < count) {
#pragma unroll
      for (int i = 0; i < step_rows; i += rows_together) {
        const std::uint32_t row = i + lane() / Layout::chunks;
        const std::uint64_t id = __shfl_sync(all_lanes, held, step % 2 * step_rows + row);
        const std::uint32_t to = target + Layout::place(row, lane() % Layout::chunks);
        copy_ahead<16>(to, y + id * y_stride, first + row < count);
        copy_ahead<16>(to + Layout::x_offset, x + id * x_stride, first + row < count);
      }
      if (step % 2 == 1) {
        held = next;
        next = load(first + step_rows + warp_lanes);
      }
    }
    commit_copies();
    ++step;
    target = target == buffers + (stages - 1) * Layout::bytes ? buffers : target + Layout::bytes;
  }
};

/// A warp's rows and sums, as fragments.
template <int width, bool has_dy>
struct WarpVisits {
  static constexpr int depth = width / 16, columns = width / 8;
  using Layout = Step<width>;
  std::uint32_t own_y[depth][4];
  float dx[columns][4] = {}, dy[columns][4] = {};
  std::uint32_t before[2], count[2];  ///< entries of rows lane / 4 and lane / 4 + 8

  /// Weights of entries `first` .. `first` + 15 as two fragments of rows x entries, and ones in their places.
  struct Weights {
    std::uint32_t high[4], low[4], ones[4];
  };

  __device__ __forceinline__ Weights weights(std::uint32_t first, std::uint32_t y_tile) const {
    const std::uint32_t lane = threadIdx.x % warp_lanes;
    const std::uint32_t at = y_tile + Layout::place(lane % 8, lane / 8);
    float gain[2][4] = {};
#pragma unroll
    for (int k = 0; k < depth; k += 2) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        std::uint32_t y[4];
        load_matrices(y, (at ^ static_cast<std::uint32_t>(32 * k)) + tile * (8 * 2 * width));
        add_product(gain[tile], own_y[k], y[0], y[1]);
        add_product(gain[tile], own_y[k + 1], y[2], y[3]);
      }
    }
    Weights w;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t place = first + 2 * (lane % 4) - before[half];  // wraps round before the row's first
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const int i = 2 * tile + half;
        const bool is_first = place + 8 * tile < count[half], is_second = place + 8 * tile + 1 < count[half];
        const float a = is_first ? gain[tile][2 * half] : 0.0f, b = is_second ? gain[tile][2 * half + 1] : 0.0f;
        w.high[i] = pack_pair(a, b);
        w.low[i] = pack_pair(a - first_of(w.high[i]), b - second_of(w.high[i]));
        constexpr std::uint32_t one = 0x3F80;  // bfloat16
        w.ones[i] = (is_first ? one : 0) | (is_second ? one << 16 : 0);
      }
    }
    return w;
  }

  /// Takes entries `first` .. `first` + 15, whose rows lie in `tile`.
  __device__ __forceinline__ void visit(std::uint32_t first, std::uint32_t tile) {
    const std::uint32_t lane = threadIdx.x % warp_lanes;
    const Weights w = weights(first, tile);
    const std::uint32_t at = tile + Layout::place(lane % 16, lane / 16);
#pragma unroll
    for (int c = 0; c < columns; c += 2) {
      std::uint32_t x[4];
      const std::uint32_t from = at ^ static_cast<std::uint32_t>(c << 4);
      load_matrices_transposed(x, from + Layout::x_offset);
      add_product(dx[c], w.high, x[0], x[1]);
      add_product(dx[c + 1], w.high, x[2], x[3]);
      add_product(dx[c], w.low, x[0], x[1]);
      add_product(dx[c + 1], w.low, x[2], x[3]);
      if constexpr (has_dy) {
        load_matrices_transposed(x, from);
        add_product(dy[c], w.ones, x[0], x[1]);
        add_product(dy[c + 1], w.ones, x[2], x[3]);
      }
    }
  }
};

/// Blocks of one multiprocessor: as many as registers allow; with 16, 65,536 rows are worked at once.
template <int width, bool has_dy>
constexpr int blocks_together = width > 32 ? 8
                                : has_dy   ? 12
                                           : 16;

/// Own rows: 16 of head blockIdx.y for each warp.
template <int width, bool has_dy, class Id>
__global__ void __launch_bounds__(threads, blocks_together<width, has_dy>)
    visit_tiles(const __grid_constant__ PartnerVisits<bfloat16, Id> p) {
  __shared__ __align__(128) Step<width> shared[warps][stages];
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const int first = (static_cast<int>(blockIdx.x) * warps + warp) * tile_rows;
  WarpRows own{static_cast<int>(blockIdx.y), first, min(tile_rows, static_cast<int>(p.dx.tokens) - first), 0};
  if (own.count <= 0) return;
  JoinedLists lists(p, own);
  WarpVisits<width, has_dy> visits;
  load_fragments<width>(p.own_y, own, visits.own_y);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    visits.before[half] = __shfl_sync(all_lanes, lists.before, lane / 4 + 8 * half);
    visits.count[half] = __shfl_sync(all_lanes, lists.count, lane / 4 + 8 * half);
  }
  const std::uint32_t buffers = shared_address(shared[warp]);
  while (lists.left != 0) {
    const JoinedLists::Run run = lists.next();
    PartnerCopies<width, Id> copies(p, own.head, run, buffers);
    __syncwarp();
#pragma unroll
    for (int stage = 0; stage + 1 < stages; ++stage) copies.start();
    std::uint32_t tile = buffers;
    for (std::uint32_t entry = run.first; entry < run.end; entry += step_rows) {
      wait_copies<stages - 2>();
      __syncwarp();
      copies.start();
      visits.visit(entry, tile);
      tile = tile == buffers + (stages - 1) * Step<width>::bytes ? buffers : tile + Step<width>::bytes;
    }
  }
  store_rows<has_dy>(p, visits.dx, visits.dy, own);
}

template <int width, class Id>
void launch(Cuda& cuda, const PartnerVisits<bfloat16, Id>& p) {
  constexpr int block_rows = warps * tile_rows;
  const dim3 grid(static_cast<unsigned>((p.dx.tokens + block_rows - 1) / block_rows),
                  static_cast<unsigned>(p.dx.heads));
  if (p.dy.data != nullptr)
    visit_tiles<width, true, Id><<<grid, threads, 0, cuda.stream>>>(p);
  else
    visit_tiles<width, false, Id><<<grid, threads, 0, cuda.stream>>>(p);
  check_launch("collision_gradients: visit_tiles");
}

}  // namespace

template <class Id>
bool fits_partner_tiles(const PartnerVisits<bfloat16, Id>& p) {
  return !p.is_exact && p.packed && (p.dx.width == 32 || p.dx.width == 64);
}

template <class Id>
void visit_partner_tiles(Cuda& cuda, const PartnerVisits<bfloat16, Id>& p) {
  ensure(fits_partner_tiles(p), "visit_partner_tiles: {} columns", p.dx.width);
  return p.dx.width == 32 ? launch<32>(cuda, p) : launch<64>(cuda, p);
}

#define TERN_INSTANTIATE(Id)                                                \
  template bool fits_partner_tiles<Id>(const PartnerVisits<bfloat16, Id>&); \
  template void visit_partner_tiles<Id>(Cuda&, const PartnerVisits<bfloat16, Id>&);
TERN_INSTANTIATE(std::uint16_t)
TERN_INSTANTIATE(std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
