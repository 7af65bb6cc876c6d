// Sums of outer products over sequences. Deterministic: a block sums one chunk of a sequence for one head and a
// tile of the matrix; where sequences are longer than a chunk, partial sums are added in order. Cost
// tokens * heads * rows * columns products; each operand is read once for each 64 columns of the other,
// bfloat16 on tensor cores.
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/sequence_product_tiles.cuh"
#include "kernels/sequence_products.h"

namespace tern::kernels {
namespace {

constexpr int least_chunk = 512, most_chunks = 64;

/// How sequences are cut, by the longest of the batch, and where sums go: to the results where one chunk is
/// enough.
template <class A>
struct Chunks {
  int length, count;
  A *matrices, *totals;
};

/// The tokens of a block, and its place among the partial sums.
struct ChunkRange {
  std::int64_t first, place;
  int count, head;
};
template <class A>
__device__ __forceinline__ ChunkRange chunk_range(const Sequences& sequences, const Chunks<A>& chunks,
                                                  int heads) {
  const int head = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.x) % chunks.count;
  const SequenceRange range = sequence_range(sequences, static_cast<int>(blockIdx.x) / chunks.count);
  const int rest = range.length - part * chunks.length;
  return {std::int64_t{range.begin} + part * chunks.length, std::int64_t{blockIdx.x} * heads + head,
          rest < chunks.length ? rest : chunks.length, head};
}

constexpr int outer_threads = 128, stage_tokens = 32, stages = 4;

/// The two weights of a fragment's column 0: tokens 2 t and 2 t + 1 from `token` on.
__device__ __forceinline__ std::uint32_t weight_pair(const OuterSums<bfloat16>& in, const ChunkRange& range,
                                                     int token) {
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
  if (lane / 4 != 0) return 0;
  if (in.weights == nullptr) return pack_pair(1.0f, 1.0f);
  const auto weight = [&](int t) {
    return t < range.count ? in.weights[(range.first + t) * in.a.heads + range.head] : 0.0f;
  };
  return pack_pair(weight(token + 2 * lane), weight(token + 2 * lane + 1));
}

/// Block (x, y, z): chunk x, head y, tile z of 64 rows and 64 columns; a warp takes 16 rows.
__global__ void __launch_bounds__(outer_threads)
    sum_tiles(Sequences sequences, OuterSums<bfloat16> in, Chunks<float> chunks) {
  __shared__ __align__(128) bfloat16 tiles[stages][2][stage_tokens * tile_stride];
  const ChunkRange range = chunk_range(sequences, chunks, in.a.heads);
  if (range.count <= 0 && chunks.count > 1) return;
  const int column_tiles = (in.b.width + product_tile - 1) / product_tile;
  const int tile_row = static_cast<int>(blockIdx.z) / column_tiles * product_tile,
            tile_column = static_cast<int>(blockIdx.z) % column_tiles * product_tile;
  const int warp_row = static_cast<int>(threadIdx.x) / warp_lanes * 16;
  const int steps = (range.count + stage_tokens - 1) / stage_tokens;
  const auto copy_stage = [&](int step) {
    const int token = step * stage_tokens;
    if (step < steps) {
      bfloat16(&to)[2][stage_tokens * tile_stride] = tiles[step % stages];
      copy_tile<stage_tokens, outer_threads>(to[0], in.a, range.first + token, range.count - token, range.head,
                                             tile_row);
      copy_tile<stage_tokens, outer_threads>(to[1], in.b, range.first + token, range.count - token, range.head,
                                             tile_column);
    }
    commit_copies();
  };
  for (int step = 0; step < stages - 1; ++step) copy_stage(step);
  const bool has_totals = in.totals != nullptr && tile_column == 0;
  float sums[product_tile / 8][4] = {}, total[4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_copies<stages - 2>();
    __syncthreads();
    copy_stage(step + stages - 1);
    const bfloat16 *a_tile = tiles[step % stages][0], *b_tile = tiles[step % stages][1];
#pragma unroll
    for (int token = 0; token < stage_tokens; token += 16) {
      std::uint32_t a[4];
      load_rows_transposed(a, a_tile, warp_row, token);
#pragma unroll
      for (int n = 0; n < product_tile / 16; ++n) {
        std::uint32_t b[4];
        load_columns(b, b_tile, token, n * 16);
        add_product(sums[2 * n], a, b[0], b[1]);
        add_product(sums[2 * n + 1], a, b[2], b[3]);
      }
      const int place = step * stage_tokens + token;
      if (has_totals) add_product(total, a, weight_pair(in, range, place), weight_pair(in, range, place + 8));
    }
  }
  const int lane = static_cast<int>(threadIdx.x) % warp_lanes;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = tile_row + warp_row + lane / 4 + 8 * half;
    if (row >= in.a.width) continue;
    float* const to = chunks.matrices + (range.place * in.a.width + row) * in.b.width;
#pragma unroll
    for (int n = 0; n < product_tile / 8; ++n)
      if (const int column = tile_column + 8 * n + lane % 4 * 2; column < in.b.width)
        store_pack(to + column, Pack<float, 2>{sums[n][2 * half], sums[n][2 * half + 1]});
    if (has_totals && lane % 4 == 0) chunks.totals[range.place * in.a.width + row] = total[2 * half];
  }
}

constexpr int plain_tile = 32, plain_side = 16;  ///< a thread sums 2 x 2 products

/// The same in plain arithmetic, for any type, alignment and width: tiles of 32 rows and 32 columns.
template <class T>
__global__ void __launch_bounds__(plain_side* plain_side)
    sum_plain(Sequences sequences, OuterSums<T> in, Chunks<Accumulate<T>> chunks) {
  using A = Accumulate<T>;
  __shared__ A a_tile[plain_tile][plain_tile + 1], b_tile[plain_tile][plain_tile + 1];
  const ChunkRange range = chunk_range(sequences, chunks, in.a.heads);
  if (range.count <= 0 && chunks.count > 1) return;
  const int column_tiles = (in.b.width + plain_tile - 1) / plain_tile;
  const int tile_row = static_cast<int>(blockIdx.z) / column_tiles * plain_tile,
            tile_column = static_cast<int>(blockIdx.z) % column_tiles * plain_tile;
  const int x = static_cast<int>(threadIdx.x) % plain_side, y = static_cast<int>(threadIdx.x) / plain_side;
  const auto load = [&](const Heads<const T>& from, int token, int column) {
    return token < range.count && column < from.width
               ? to_accumulate(row_of(from, range.first + token, range.head)[column])
               : A(0);
  };
  A sums[2][2] = {}, total[2] = {};
  for (int first = 0; first < range.count; first += plain_tile) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < plain_tile * plain_tile; i += plain_side * plain_side) {
      const int token = i / plain_tile, column = i % plain_tile;
      a_tile[token][column] = load(in.a, first + token, tile_row + column);
      b_tile[token][column] = load(in.b, first + token, tile_column + column);
    }
    __syncthreads();
    for (int token = 0; token < plain_tile; ++token) {
      const A a[2] = {a_tile[token][y], a_tile[token][y + plain_side]};
      const A b[2] = {b_tile[token][x], b_tile[token][x + plain_side]};
      const A weight = in.weights == nullptr || first + token >= range.count
                           ? A(1)
                           : in.weights[(range.first + first + token) * in.a.heads + range.head];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        sums[i][0] += a[i] * b[0];
        sums[i][1] += a[i] * b[1];
        total[i] += weight * a[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = tile_row + y + i * plain_side;
    if (row >= in.a.width) continue;
    const std::int64_t place = range.place * in.a.width + row;
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (const int column = tile_column + x + j * plain_side; column < in.b.width)
        chunks.matrices[place * in.b.width + column] = sums[i][j];
    if (in.totals != nullptr && tile_column == 0 && x == 0) chunks.totals[place] = total[i];
  }
}

/// out[s, h, i] = sum over the chunks of sequence s of partial[s, chunk, h, i].
template <class A>
__global__ void add_chunks(Sequences sequences, Chunks<A> chunks, const A* partial, int heads,
                           std::int64_t size, A* out) {
  const std::int64_t row = heads * size;
  for (std::int64_t i = thread_index(); i < sequences.count * row; i += grid_threads()) {
    const std::int64_t s = i / row;
    const int parts =
        (sequence_range(sequences, static_cast<int>(s)).length + chunks.length - 1) / chunks.length;
    const A* from = partial + s * chunks.count * row + i % row;
    A sum = 0;
#pragma unroll 4
    for (int part = 0; part < parts; ++part) sum += from[part * row];
    out[i] = sum;
  }
}

template <class T>
void launch_sums(Cuda& cuda, const Sequences& sequences, const OuterSums<T>& in,
                 const Chunks<Accumulate<T>>& chunks) {
  const auto grid = [&](int tile) {
    return dim3(static_cast<unsigned>(sequences.count * chunks.count), static_cast<unsigned>(in.a.heads),
                static_cast<unsigned>((in.a.width + tile - 1) / tile * ((in.b.width + tile - 1) / tile)));
  };
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (rows_are_packed(in.a) && rows_are_packed(in.b)) {
      sum_tiles<<<grid(product_tile), outer_threads, 0, cuda.stream>>>(sequences, in, chunks);
      return check_launch("outer_sums");
    }
  }
  sum_plain<T><<<grid(plain_tile), plain_side * plain_side, 0, cuda.stream>>>(sequences, in, chunks);
  check_launch("outer_sums");
}

}  // namespace

template <class T>
void outer_sums(Cuda& cuda, const Sequences& sequences, const OuterSums<T>& in) {
  using A = Accumulate<T>;
  const std::int64_t pairs = sequences.count * in.a.heads, size = std::int64_t{in.a.width} * in.b.width;
  if (pairs * size == 0) return;
  const auto longest = static_cast<int>(sequences.longest);
  const int even = ((longest + most_chunks - 1) / most_chunks + stage_tokens - 1) / stage_tokens * stage_tokens;
  Chunks<A> chunks{std::max(least_chunk, even), 1, in.matrices, in.totals};
  chunks.count = std::max(1, (longest + chunks.length - 1) / chunks.length);
  if (chunks.count == 1) return launch_sums(cuda, sequences, in, chunks);
  const Scratch<A> matrices(cuda, pairs * chunks.count * size),
      totals(cuda, in.totals ? pairs * chunks.count * in.a.width : 0);
  chunks.matrices = matrices.data();
  chunks.totals = totals.data();
  launch_sums(cuda, sequences, in, chunks);
  const auto add = [&](const A* partial, std::int64_t entries, A* out) {
    add_chunks<<<grid_for(cuda, pairs * entries, 256), 256, 0, cuda.stream>>>(sequences, chunks, partial,
                                                                              in.a.heads, entries, out);
    check_launch("outer_sums: add");
  };
  add(matrices.data(), size, in.matrices);
  if (in.totals != nullptr) add(totals.data(), in.a.width, in.totals);
}

#define INSTANTIATE(T) template void outer_sums<T>(Cuda&, const Sequences&, const OuterSums<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
