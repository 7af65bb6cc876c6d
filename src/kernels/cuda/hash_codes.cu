// Hash codes of rows. Each thread keeps one or two rows in registers, reads the directions of its (sequence,
// head) from shared memory and builds its codes bit by bit; bfloat16 rows go through tensor cores instead
// (hash_codes_products.cu). Deterministic: each projection is one sum in the order of the columns. Cost tokens
// * hashes * bits * head_width multiply-adds.
#include "kernels/cuda/hash_codes.cuh"
#include "kernels/cuda/heads.cuh"

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
  const Heads<const T> all = p.rows();
  const int bits = p.shape.bits;
  A x[rows][width];
#pragma unroll
  for (int u = 0; u < rows; ++u) {
    const int i = min(tile.first + u * project_threads + static_cast<int>(threadIdx.x), tile.range.length - 1);
    load_row<width>(row_of(all, tile.range.begin + i, tile.head), all.width, p.packed, x[u]);
  }
  const float* directions =
      p.directions.data + (static_cast<std::int64_t>(tile.range.index) * p.directions.heads + tile.head) *
                              p.directions.columns * p.directions.width;
  for (int first = 0; first < p.shape.hashes; first += shared_hashes) {
    const int count = min(shared_hashes, p.shape.hashes - first);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count * bits * width; i += project_threads) {
      const int c = i % width;
      shared[i] = c < all.width ? A{directions[(first * bits + i / width) * all.width + c]} : A{};
    }
    __syncthreads();
    for (int hash = 0; hash < count; ++hash) {
      std::uint32_t code[rows] = {};
      for (int bit = 0; bit < bits; ++bit) {
        const A* direction = shared + (hash * bits + bit) * width;
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
  const T* row = row_of(p.rows(), tile.range.begin + i, tile.head);
  const int width = p.directions.width, bits = p.shape.bits;
  const float* directions =
      p.directions.data + (static_cast<std::int64_t>(tile.range.index) * p.directions.heads + tile.head) *
                              p.directions.columns * width;
  for (int hash = 0; hash < p.shape.hashes; ++hash) {
    std::uint32_t code = 0;
    for (int bit = 0; bit < bits; bit += together) {
      A sum[together] = {};
      const float* direction = directions + static_cast<std::int64_t>(hash * bits + bit) * width;
      const int last = min(together, bits - bit) - 1;
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

template <class T, class Code>
dim3 grid_of(const Projection<T, Code>& p, int tiles) {
  return {static_cast<unsigned>(tiles * (p.sequences.count + 1) * p.directions.heads),
          static_cast<unsigned>(p.sides)};
}

template <int width, class T, class Code>
void launch_project(Cuda& cuda, const Projection<T, Code>& p) {
  using A = Accumulate<T>;
  constexpr int rows = width * sizeof(A) <= 256 ? 2 : 1, size = rows * project_threads;
  const int tiles = static_cast<int>((p.sequences.longest + size - 1) / size);
  const int bytes = p.shape.bits * width * static_cast<int>(sizeof(A));  // of one hash: at most 20 KiB
  const int hashes = std::clamp(shared_direction_bytes / bytes, 1, p.shape.hashes);
  project<width, rows, T, Code>
      <<<grid_of(p, tiles), project_threads, static_cast<std::size_t>(hashes * bytes), cuda.stream>>>(p, tiles,
                                                                                                      hashes);
}

template <class T, class Code>
void project_rows(Cuda& cuda, const Projection<T, Code>& p) {
  const int width = p.directions.width;
  if (width <= 32) {
    launch_project<32>(cuda, p);
  } else if (width <= 64) {
    launch_project<64>(cuda, p);
  } else if (width <= 128) {
    launch_project<128>(cuda, p);
  } else {
    const int tiles = static_cast<int>((p.sequences.longest + project_threads - 1) / project_threads);
    project_wide<T, Code><<<grid_of(p, tiles), project_threads, 0, cuda.stream>>>(p, tiles);
  }
  check_launch("hash_codes: project");
}

/// Codes of both sides, or of `q` alone where `sides` is 1.
template <class T, class Code>
void hash_sides(Cuda& cuda, const Sequences& sequences, Heads<const T> q, Heads<const T> k, int sides,
                HashShape shape, const RandomStream& stream, Code* q_codes, Code* k_codes, int first_head) {
  if (q.tokens == 0 || q.heads == 0) return;
  const bool by_products =
      std::is_same_v<T, bfloat16> && q.width <= 128 && rows_move_by(q, 2) && rows_move_by(k, 2);
  // products draw Gaussian directions themselves
  const bool is_drawn = !(by_products && shape.family == HashFamily::gaussian && q.width % 4 == 0);
  const int columns = shape.hashes * shape.bits;
  const std::int64_t head_items = std::max<std::int64_t>(1, sequences.count * columns * q.width);
  const int group =
      static_cast<int>(std::clamp<std::int64_t>(most_direction_bytes / (4 * head_items), 1, q.heads));
  const Scratch<float> drawn(cuda, is_drawn ? group * head_items : 0);
  Sequences bounded = sequences;
  bounded.longest = std::max<std::int64_t>(sequences.longest, 1);
  for (int head = 0; head < q.heads; head += group) {
    const Directions directions{is_drawn ? drawn.data() : nullptr, std::min(group, q.heads - head),
                                first_head + head, columns, q.width};
    if (is_drawn && sequences.count > 0) draw_directions(cuda, directions, shape, sequences, stream);
    const std::int64_t place = static_cast<std::int64_t>(head) * shape.hashes * q.tokens;
    const Projection<T, Code> projection{
        bounded,
        {heads_from(q, head, directions.heads), heads_from(k, head, directions.heads)},
        {q_codes + place, k_codes + place},
        sides,
        shape,
        directions,
        rows_are_packed(q) && rows_are_packed(k)};
    if constexpr (std::is_same_v<T, bfloat16>) {
      if (by_products) {
        project_by_products<Code>(cuda, projection, stream);
        continue;
      }
    }
    project_rows(cuda, projection);
  }
}

}  // namespace

template <class T, class Code>
void hash_codes(Cuda& cuda, const Sequences& sequences, Heads<const T> x, HashShape shape,
                const RandomStream& stream, Code* codes) {
  hash_sides(cuda, sequences, x, x, 1, shape, stream, codes, codes, 0);
}
template <class T, class Code>
void hash_codes(Cuda& cuda, const Sequences& sequences, Heads<const T> q, Heads<const T> k, HashShape shape,
                const RandomStream& stream, Code* q_codes, Code* k_codes, int first_head) {
  hash_sides(cuda, sequences, q, k, 2, shape, stream, q_codes, k_codes, first_head);
}

#define TERN_INSTANTIATE(T, Code)                                                                            \
  template void hash_codes<T, Code>(Cuda&, const Sequences&, Heads<const T>, HashShape, const RandomStream&, \
                                    Code*);                                                                  \
  template void hash_codes<T, Code>(Cuda&, const Sequences&, Heads<const T>, Heads<const T>, HashShape,      \
                                    const RandomStream&, Code*, Code*, int);
TERN_INSTANTIATE(float, std::uint16_t)
TERN_INSTANTIATE(float, std::uint32_t)
TERN_INSTANTIATE(double, std::uint16_t)
TERN_INSTANTIATE(double, std::uint32_t)
TERN_INSTANTIATE(bfloat16, std::uint16_t)
TERN_INSTANTIATE(bfloat16, std::uint32_t)
#undef TERN_INSTANTIATE

}  // namespace tern::kernels
