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

/// Rows of one step in shared memory, in lines of 128 bytes: [y | x] of 32 columns, or a line of y and one of x
/// of 64. A lane copies chunk lane % 8 of the rows lane / 8 + i * `together`; these hold neighbouring entries,
/// so that the lane reads their ids at once. Eight lanes ask for a whole line of a partner whose y and x lie
/// side by side in memory, which is one request to the second-level cache.
template <int width>
struct Step {
  static constexpr int lines = width / 32;      ///< of a row
  static constexpr int line = 128, chunks = 8;  ///< bytes, and parts of 16 bytes
  static constexpr int together = warp_lanes / chunks, rows_of_lane = step_rows / together;
  static constexpr std::uint32_t line_offset = step_rows * line, bytes = lines * line_offset;
  std::byte rows[bytes];

  /// Chunks are exchanged such that equal chunks of eight neighbouring rows lie in different banks.
  __device__ static constexpr std::uint32_t exchange(std::uint32_t row) { return row % chunks << 4; }
  __device__ static __forceinline__ std::uint32_t place(std::uint32_t row, std::uint32_t chunk) {
    return row * line + (chunk << 4 ^ exchange(row));
  }
  /// Where x lies, given the place of the same columns of y.
  __device__ static __forceinline__ std::uint32_t x_of(std::uint32_t y) {
    return lines == 1 ? y ^ line / 2 : y + line_offset;
  }
  /// Entry of a row.
  __device__ static __forceinline__ std::uint32_t entry(std::uint32_t row) {
    return row % together * rows_of_lane + row / together;
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
    bool has_partners = false, has_crowded = false;
    if (lane < own.count) {
      const SequenceRange range = find_sequence(p.sequences, own.first + lane);
      has_partners = range.index != p.sequences.count;
      begin = range.begin;
      const std::int64_t place = own.head * p.dx.tokens + own.first + lane;
      const EntryRange few = p.collisions.lists.few[place];
      has_crowded = has_partners && p.collisions.lists.crowded[place].count > 0;
      count = has_partners ? few.count : 0;
      start = few.first;
    }
    own.has_partners = __ballot_sync(all_lanes, has_partners);
    own.has_crowded = __ballot_sync(all_lanes, has_crowded);
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

/// Copies the rows of a run's partners to shared memory, a step after the other. Steps start where the ids of a
/// lane's rows lie in one piece of memory, up to rows_of_lane - 1 entries before the run's first.
template <int width, class Id>
struct PartnerCopies {
  using Layout = Step<width>;
  static constexpr int id_bits = 8 * sizeof(Id), words = Layout::rows_of_lane * id_bits / 32;
  using Ids = Pack<std::uint32_t, words>;

  const Id* ids;                        ///< of the lane's first row, of the step in work
  const char* from[Layout::lines];      ///< the lane's chunk of the sequence's first row
  std::uint32_t stride[Layout::lines];  ///< bytes
  std::uint32_t to;                     ///< where the lane's first chunk lies in the first step
  int entry, end;                       ///< first of the step in work, and behind the run's last
  int place, count;                     ///< of the lane's first row in the run, in the step in work; of entries
  Ids held[stages] = {};                ///< of the next steps

  __device__ __forceinline__ PartnerCopies(const PartnerVisits<bfloat16, Id>& p, int head,
                                           const JoinedLists::Run& run, std::uint32_t buffers)
      : end(static_cast<int>(run.end)), count(static_cast<int>(run.end - run.first)) {
    const int lane = static_cast<int>(threadIdx.x) % warp_lanes, row = lane / Layout::chunks,
              chunk = lane % Layout::chunks;
    const std::uint32_t index = run.first + run.start, before = index % Layout::rows_of_lane;
    entry = static_cast<int>(run.first - before);
    place = row * Layout::rows_of_lane - static_cast<int>(before);
    ids = p.collisions.lists.ids + head * p.collisions.lists.id_stride + index + place;
    to = buffers + Layout::place(row, chunk);
#pragma unroll
    for (int line = 0; line < Layout::lines; ++line) {
      const int column = line * 64 + chunk * 8;
      const bool is_x = column >= width;
      const Heads<const bfloat16>& rows = is_x ? p.partner_x : p.partner_y;
      from[line] = reinterpret_cast<const char*>(row_of(rows, run.begin, head) + column % width);
      stride[line] = static_cast<std::uint32_t>(rows.token_stride) * 2;
    }
#pragma unroll
    for (int step = 0; step < stages; ++step) load(step, step);
  }

  /// Ids of the step `step` from here, for buffer number `buffer`; leaves what nobody reads behind the last.
  __device__ __forceinline__ void load(int step, int buffer) {
    if (place + step * step_rows < count)
      held[buffer] = load_pack<words>(reinterpret_cast<const std::uint32_t*>(ids + step * step_rows));
  }

  /// Starts the copies of the step `step` from here, to buffer number `buffer`: a group of copies even where
  /// none is left; zeros outside of the run.
  __device__ __forceinline__ void start(int step, int buffer) {
    if (entry + step * step_rows < end) {
#pragma unroll
      for (int i = 0; i < Layout::rows_of_lane; ++i) {
        const bool is_inside =
            static_cast<std::uint32_t>(place + step * step_rows + i) < static_cast<std::uint32_t>(count);
        const std::uint64_t id = static_cast<Id>(held[buffer].item[i * id_bits / 32] >> i * id_bits % 32);
        const std::uint32_t at = (to ^ Layout::exchange(i * Layout::together)) +
                                 i * Layout::together * Layout::line + buffer * Layout::bytes;
#pragma unroll
        for (int line = 0; line < Layout::lines; ++line)
          copy_ahead<16>(at + line * Layout::line_offset, from[line] + id * stride[line], is_inside);
      }
      load(step + stages, buffer);
    }
    commit_copies();
  }
  __device__ __forceinline__ void advance() {
    entry += step_rows;
    place += step_rows;
    ids += step_rows;
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
  /// Entries come in the order of the step's rows.
  struct Weights {
    std::uint32_t high[4], low[4], ones[4];
  };

  __device__ __forceinline__ Weights weights(int first, std::uint32_t y_tile) const {
    const std::uint32_t lane = threadIdx.x % warp_lanes;
    const std::uint32_t at = y_tile + Layout::place(lane % 8, lane / 8);
    float gain[2][4] = {};
#pragma unroll
    for (int k = 0; k < depth; k += 2) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        std::uint32_t y[4];
        load_matrices(y, (at ^ static_cast<std::uint32_t>(32 * k)) + tile * (8 * Layout::line));
        add_product(gain[tile], own_y[k], y[0], y[1]);
        add_product(gain[tile], own_y[k + 1], y[2], y[3]);
      }
    }
    Weights w;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t place = first + Layout::entry(2 * (lane % 4)) - before[half];  // may wrap round
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const int i = 2 * tile + half;
        const std::uint32_t at_tile = place + tile * (8 / Layout::together);
        const bool is_first = at_tile < count[half], is_second = at_tile + Layout::rows_of_lane < count[half];
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
  __device__ __forceinline__ void visit(int first, std::uint32_t tile) {
    const std::uint32_t lane = threadIdx.x % warp_lanes;
    const Weights w = weights(first, tile);
    const std::uint32_t at = tile + Layout::place(lane % 16, lane / 16);
#pragma unroll
    for (int c = 0; c < columns; c += 2) {
      std::uint32_t x[4];
      const std::uint32_t from = at ^ static_cast<std::uint32_t>(c << 4);
      load_matrices_transposed(x, Layout::x_of(from));
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

/// Visits the partners of a run.
template <int width, bool has_dy, class Id>
__device__ __forceinline__ void visit_run(PartnerCopies<width, Id>& copies, WarpVisits<width, has_dy>& visits,
                                          std::uint32_t buffers) {
  __syncwarp();
#pragma unroll
  for (int step = 0; step + 1 < stages; ++step) copies.start(step, step);
  while (copies.entry < copies.end) {
#pragma unroll
    for (int buffer = 0; buffer < stages; ++buffer) {
      if (copies.entry >= copies.end) break;
      wait_copies<stages - 2>();
      __syncwarp();
      copies.start(stages - 1, (buffer + stages - 1) % stages);
      visits.visit(copies.entry, buffers + buffer * Step<width>::bytes);
      copies.advance();
    }
  }
}

/// Blocks of one multiprocessor: as many as registers allow; with 16, 65,536 rows are worked at once.
template <int width, bool has_dy>
constexpr int blocks_together = width > 32 ? 8
                                : has_dy   ? 10
                                           : 16;

/// Own rows: 16 of head blockIdx.y for each warp.
template <int width, bool has_dy, class Id>
__global__ void __launch_bounds__(threads, blocks_together<width, has_dy>)
    visit_tiles(const __grid_constant__ PartnerVisits<bfloat16, Id> p) {
  __shared__ __align__(128) Step<width> shared[warps][stages];
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes,
            warp = static_cast<int>(threadIdx.x) / warp_lanes;
  const int first = (static_cast<int>(blockIdx.x) * warps + warp) * tile_rows;
  WarpRows own{static_cast<int>(blockIdx.y), first, min(tile_rows, static_cast<int>(p.dx.tokens) - first), 0,
               0};
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
    PartnerCopies<width, Id> copies(p, own.head, lists.next(), buffers);
    visit_run(copies, visits, buffers);
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
