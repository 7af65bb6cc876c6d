// Hash codes of rows. Each thread keeps one or two rows in registers, reads the directions of its (sequence,
// head) from shared memory and builds its codes bit by bit; bfloat16 rows go through tensor cores instead
// (hash_codes_products.cu). Deterministic: each projection is one sum in the order of the columns. Cost tokens
// * hashes * bits * head_width multiply-adds.
#include "kernels/cuda/hash_codes.cuh"

namespace tern::kernels {
namespace {

constexpr int project_threads = 128;
constexpr std::int64_t most_direction_bytes = std::int64_t{128} << 20;  // heads go in groups beyond it
constexpr int shared_direction_bytes = 32 * 1024;

template <int width, class T, class A>
__device__ __forceinline__ void load_row(const T* row, int count, bool packed, A (&x)[width]) {
  constexpr int items = pack_items<T>;
  if (packed) {
#pragma unroll
    for (int c = 0; c < width; c += items) {
      Pack<T, items> pack{};
      if (c < count) pack = load_pack<items>(row + c);
#pragma unroll
      for (int u = 0; u < items; ++u) x[c + u] = c < count ? to_accumulate(pack.item[u]) : A{};
    }
    return;
  }
#pragma unroll
  for (int c = 0; c < width; ++c) x[c] = c < count ? to_accumulate(row[c]) : A{};
}

/// Rows of at most `width` columns, kept in registers.
template <int width, int rows, class T, class Code>
__global__ void __launch_bounds__(project_threads)
    project(Projection<T, Code> p, int tiles, int shared_hashes) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  A* shared = reinterpret_cast<A*>(shared_bytes);  // [hash of the group][bit][width]
  constexpr int size = rows * project_threads, items = 16 / sizeof(A);
  const Tile tile = tile_of_block(p, tiles, size);
  if (tile.range.index == p.sequences.count) return clear_codes(p, tile, tiles * size);
  if (tile.first >= tile.range.length) return;
  A x[rows][width];
#pragma unroll
  for (int u = 0; u < rows; ++u) {
    const int i = min(tile.first + u * project_threads + static_cast<int>(threadIdx.x), tile.range.length - 1);
    load_row<width>(row_of(p.x, tile.range.begin + i, tile.head), p.x.width, p.packed, x[u]);
  }
  const float* directions =
      p.directions.data + (static_cast<std::int64_t>(tile.range.index) * p.directions.heads + tile.head) *
                              p.directions.columns * p.directions.width;
  for (int first = 0; first < p.hashes; first += shared_hashes) {
    const int count = min(shared_hashes, p.hashes - first);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count * p.bits * width; i += project_threads) {
      const int c = i % width;
      shared[i] = c < p.x.width ? A{directions[(first * p.bits + i / width) * p.x.width + c]} : A{};
    }
    __syncthreads();
    for (int hash = 0; hash < count; ++hash) {
      std::uint32_t code[rows] = {};
      for (int bit = 0; bit < p.bits; ++bit) {
        const A* direction = shared + (hash * p.bits + bit) * width;
        A sum[rows] = {};
#pragma unroll
        for (int c = 0; c < width; c += items) {
          const Pack<A, items> d = load_pack<items>(direction + c);
#pragma unroll
          for (int v = 0; v < items; ++v) {
#pragma unroll
            for (int u = 0; u < rows; ++u) sum[u] += x[u][c + v] * d.item[v];
          }
        }
#pragma unroll
        for (int u = 0; u < rows; ++u) code[u] |= (sum[u] > 0 ? 1u : 0u) << bit;
      }
      Code* to = p.place(tile.head, first + hash) + tile.range.begin;
#pragma unroll
      for (int u = 0; u < rows; ++u) {
        const int i = tile.first + u * project_threads + static_cast<int>(threadIdx.x);
        if (i < tile.range.length) to[i] = static_cast<Code>(code[u]);
      }
    }
  }
}

/// Rows of any width, one a thread, read again for every four bits.
template <class T, class Code>
__global__ void __launch_bounds__(project_threads) project_wide(Projection<T, Code> p, int tiles) {
  using A = Accumulate<T>;
  constexpr int together = 4;
  const Tile tile = tile_of_block(p, tiles, project_threads);
  if (tile.range.index == p.sequences.count) return clear_codes(p, tile, tiles * project_threads);
  const int i = tile.first + static_cast<int>(threadIdx.x);
  if (i >= tile.range.length) return;
  const T* row = row_of(p.x, tile.range.begin + i, tile.head);
  const int width = p.x.width;
  const float* directions =
      p.directions.data + (static_cast<std::int64_t>(tile.range.index) * p.directions.heads + tile.head) *
                              p.directions.columns * width;
  for (int hash = 0; hash < p.hashes; ++hash) {
    std::uint32_t code = 0;
    for (int bit = 0; bit < p.bits; bit += together) {
      A sum[together] = {};
      const float* direction = directions + static_cast<std::int64_t>(hash * p.bits + bit) * width;
      const int last = min(together, p.bits - bit) - 1;
      for (int c = 0; c < width; ++c) {
        const A x = to_accumulate(row[c]);
#pragma unroll
        for (int u = 0; u < together; ++u) sum[u] += x * A{direction[min(u, last) * width + c]};
      }
#pragma unroll
      for (int u = 0; u < together; ++u) code |= (u <= last && sum[u] > 0 ? 1u : 0u) << (bit + u);
    }
    p.place(tile.head, hash)[tile.range.begin + i] = static_cast<Code>(code);
  }
}

template <int width, class T, class Code>
void launch_project(Cuda& cuda, const Projection<T, Code>& p) {
  using A = Accumulate<T>;
  constexpr int rows = width * sizeof(A) <= 256 ? 2 : 1, size = rows * project_threads;
  const int tiles = static_cast<int>((p.sequences.longest + size - 1) / size);
  const int bytes = p.bits * width * static_cast<int>(sizeof(A));  // of one hash: at most 20 KiB
  const int hashes = std::clamp(shared_direction_bytes / bytes, 1, p.hashes);
  const auto blocks = static_cast<unsigned>(tiles * (p.sequences.count + 1) * p.x.heads);
  project<width, rows, T, Code>
      <<<blocks, project_threads, static_cast<std::size_t>(hashes * bytes), cuda.stream>>>(p, tiles, hashes);
}

template <class T, class Code>
void project_rows(Cuda& cuda, const Projection<T, Code>& p) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (p.x.width <= 128 && p.pairs) return project_by_products<Code>(cuda, p);
  }
  if (p.x.width <= 32) {
    launch_project<32>(cuda, p);
  } else if (p.x.width <= 64) {
    launch_project<64>(cuda, p);
  } else if (p.x.width <= 128) {
    launch_project<128>(cuda, p);
  } else {
    const int tiles = static_cast<int>((p.sequences.longest + project_threads - 1) / project_threads);
    const auto blocks = static_cast<unsigned>(tiles * (p.sequences.count + 1) * p.x.heads);
    project_wide<T, Code><<<blocks, project_threads, 0, cuda.stream>>>(p, tiles);
  }
  check_launch("hash_codes: project");
}

}  // namespace

template <class T, class Code>
void hash_codes(Cuda& cuda, const Sequences& sequences, Heads<const T> x, HashShape shape,
                const RandomStream& stream, Code* codes) {
  if (x.tokens == 0 || x.heads == 0) return;
  const int columns = shape.hashes * shape.bits;
  const std::int64_t head_bytes = std::max<std::int64_t>(1, sequences.count * columns * x.width * 4);
  const int group = static_cast<int>(std::clamp<std::int64_t>(most_direction_bytes / head_bytes, 1, x.heads));
  const Scratch<float> drawn(cuda, group * head_bytes / 4);
  for (int head = 0; head < x.heads; head += group) {
    const Directions directions{drawn.data(), std::min(group, x.heads - head), head, columns, x.width};
    if (sequences.count > 0) draw_directions(cuda, directions, shape, sequences, stream);
    Heads<const T> rows = x;
    rows.data += head * x.head_stride;
    rows.heads = directions.heads;
    const auto moves_by = [&](int items) {
      return is_aligned(items * sizeof(T), x.data) && x.width % items == 0 && x.token_stride % items == 0 &&
             x.head_stride % items == 0;
    };
    Sequences bounded = sequences;
    bounded.longest = std::max<std::int64_t>(sequences.longest, 1);
    project_rows<T, Code>(cuda, {bounded, rows, shape.hashes, shape.bits, directions,
                                 codes + static_cast<std::int64_t>(head) * shape.hashes * x.tokens,
                                 moves_by(pack_items<T>), moves_by(2), shape.family == HashFamily::gaussian});
  }
}

#define TERN_INSTANTIATE(T, Code)                                                                            \
  template void hash_codes<T, Code>(Cuda&, const Sequences&, Heads<const T>, HashShape, const RandomStream&, \
                                    Code*);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
